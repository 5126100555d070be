//! KV cache capacity of an accelerator, from memory and model shape.

/// What the KV cache and the weights of a model take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelShape {
    /// Bytes of all weights.
    pub weight_bytes: f64,
    /// Bytes of keys and values of one token over all layers, undivided.
    pub kv_bytes_per_token: f64,
}

/// KV blocks of one instance: `(0.9 memory - weights / TP - overhead) / bytes per token and accelerator`, in whole
/// blocks.
///
/// The overhead is 1.15 GiB for one accelerator and 2.2 GiB each for several: two constants set on three block counts
/// printed by vLLM.
pub fn kv_capacity_blocks(
    shape: ModelShape,
    memory_gib: f64,
    tensor_parallel: u32,
    block_tokens: u32,
) -> u32 {
    const GIB: f64 = 1_073_741_824.0;
    let parallel = f64::from(tensor_parallel);
    let overhead = if tensor_parallel == 1 { 1.15 } else { 2.2 };
    let free = (0.9 * memory_gib - overhead).mul_add(GIB, -shape.weight_bytes / parallel);
    let tokens = free.max(0.0) / (shape.kv_bytes_per_token / parallel);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates; not negative"
    )]
    {
        (tokens / f64::from(block_tokens)) as u32
    }
}
