//! KV cache capacity of an accelerator, from memory and model shape.

use crate::error::{Error, Result};

/// Share of an accelerator's memory that vLLM uses unless told otherwise (`gpu_memory_utilization`).
const MEMORY_UTILIZATION: f64 = 0.9;
/// Bytes that neither weights nor KV cache use on a lone accelerator: activations, graphs, the framework.
const OVERHEAD_GIB: f64 = 1.15;
/// The same for each accelerator of several, where communication buffers come on top.
const PARALLEL_OVERHEAD_GIB: f64 = 2.2;

/// What the KV cache and the weights of a model take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelShape {
    /// Bytes of all weights.
    pub weight_bytes: f64,
    /// Bytes of keys and values of one token over all layers, undivided.
    pub kv_bytes_per_token: f64,
}

impl ModelShape {
    /// The models of the shipped profiles, with weights and KV cache in 16 bits.
    pub const KNOWN: [(&str, Self); 4] = [
        ("llama-2-7b", Self::bf16(6_738_415_616, 32, 32)),
        ("llama-3.1-8b", Self::bf16(8_030_261_248, 32, 8)),
        ("llama-2-70b", Self::bf16(68_976_648_192, 80, 8)),
        ("llama-3.1-70b", Self::bf16(70_553_706_496, 80, 8)),
    ];

    /// The shape of a model by the name that profiles use.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a model that is not in [`ModelShape::KNOWN`].
    pub fn of(model: &str) -> Result<Self> {
        Self::KNOWN
            .iter()
            .find(|(name, _)| *name == model)
            .map(|&(_, shape)| shape)
            .ok_or_else(|| Error::unknown("model", model, Self::KNOWN.map(|(name, _)| name)))
    }

    /// Two bytes per parameter; a key and a value of 128 numbers per layer and KV head.
    const fn bf16(parameters: u64, layers: u64, kv_heads: u64) -> Self {
        Self {
            weight_bytes: (2 * parameters) as f64,
            kv_bytes_per_token: (2 * 2 * 128 * layers * kv_heads) as f64,
        }
    }
}

/// KV blocks of one instance: `(0.9 memory - weights / TP - overhead) / bytes per token and accelerator`, in whole
/// blocks; 0 when the weights do not fit.
///
/// `memory_gib` is what the driver reports for one accelerator, in GiB of 2^30 bytes (23.517 for an RTX 4090 of 24 GB,
/// 139.8 for an H200 of 141 GB). The overhead is 1.15 GiB for one accelerator and 2.2 GiB each for several: two
/// constants set on three block counts printed by vLLM, which they meet within 0.2 %.
///
/// # Errors
/// [`Error::Field`] unless memory is positive and finite and the two counts are at least 1.
pub fn kv_capacity_blocks(
    shape: ModelShape,
    memory_gib: f64,
    tensor_parallel: u32,
    block_tokens: u32,
) -> Result<u32> {
    const GIB: f64 = 1_073_741_824.0;
    if !(memory_gib.is_finite() && memory_gib > 0.0) {
        return Err(Error::field("memory_gib", memory_gib, "a positive number"));
    }
    for (field, count) in [("tensor_parallel", tensor_parallel), ("block_tokens", block_tokens)] {
        if count == 0 {
            return Err(Error::field(field, count, "at least 1"));
        }
    }
    let parallel = f64::from(tensor_parallel);
    let overhead = if tensor_parallel == 1 { OVERHEAD_GIB } else { PARALLEL_OVERHEAD_GIB };
    let free = (MEMORY_UTILIZATION * memory_gib - overhead).mul_add(GIB, -shape.weight_bytes / parallel);
    let tokens = free.max(0.0) / (shape.kv_bytes_per_token / parallel);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a float cast saturates"
    )]
    {
        Ok((tokens / f64::from(block_tokens)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `num_gpu_blocks` as real vLLM servers printed it: model, GiB, tensor parallelism, blocks of 16.
    const MEASURED: [(&str, f64, u32, u32); 3] = [
        ("llama-2-7b", 80.0, 1, 7463),
        ("llama-3.1-8b", 23.517, 1, 2588),
        ("llama-3.1-70b", 80.0, 4, 30_251),
    ];

    #[test]
    fn blocks_of_real_servers_are_met_within_a_fifth_of_a_percent() {
        for (model, memory_gib, tensor_parallel, measured) in MEASURED {
            let shape = ModelShape::of(model).unwrap();
            let blocks = kv_capacity_blocks(shape, memory_gib, tensor_parallel, 16).unwrap();
            let error = (f64::from(blocks) / f64::from(measured) - 1.0).abs();
            assert!(error <= 0.002, "{model}: {blocks} blocks, measured {measured}");
        }
    }

    #[test]
    fn weights_that_do_not_fit_leave_no_block() {
        let shape = ModelShape::of("llama-2-70b").unwrap();
        assert_eq!(kv_capacity_blocks(shape, 80.0, 1, 16), Ok(0));
    }

    #[test]
    fn bad_arguments_are_errors_that_name_them() {
        let shape = ModelShape::of("llama-2-7b").unwrap();
        for (memory, parallel, block, field) in [
            (f64::NAN, 1, 16, "memory_gib"),
            (0.0, 1, 16, "memory_gib"),
            (80.0, 0, 16, "tensor_parallel"),
            (80.0, 1, 0, "block_tokens"),
        ] {
            let message = kv_capacity_blocks(shape, memory, parallel, block).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
        let message = ModelShape::of("llama-2-7").unwrap_err().to_string();
        assert!(message.contains("did you mean `llama-2-7b`"), "{message}");
    }
}
