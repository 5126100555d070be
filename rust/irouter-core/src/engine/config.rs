//! What an engine is built from.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Job;
use crate::error::{Error, Result};
use crate::profile::{KvCache, Profile, Scale, Scheduler, StepModel};
use crate::time::Picos;

/// Length of the slices of engine time in which the step-time noise is constant.
pub(crate) const NOISE_SLICE: Picos = Picos(250_000_000_000);

/// A profile made ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// How the engine batches.
    pub scheduler: Scheduler,
    /// How much KV cache it has.
    pub kv: KvCache,
    /// How long its steps take.
    pub steps: StepModel,
    /// Most tokens of prompt and output together.
    pub max_model_len: u32,
}

impl EngineConfig {
    /// Validates and compiles `profile`.
    ///
    /// # Errors
    /// [`Error::Field`] naming the bad field.
    pub fn new(profile: &Profile) -> Result<Self> {
        profile.validate()?;
        if profile.kv.block_tokens > 1 << 16 {
            return Err(Error::field("kv.block_tokens", profile.kv.block_tokens, "at most 65536"));
        }
        Ok(Self {
            scheduler: profile.scheduler.clone(),
            kv: profile.kv.clone(),
            steps: StepModel::new(profile)?,
            max_model_len: profile.max_model_len,
        })
    }

    /// Blocks that an admission must leave free.
    pub fn watermark_blocks(&self) -> u32 {
        let blocks = libm::ceil(self.scheduler.watermark * f64::from(self.kv.blocks));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below `kv.blocks`")]
        {
            blocks as u32
        }
    }

    /// Most tokens of prompt and output that one request can have.
    pub fn longest_request(&self) -> u32 {
        self.kv.blocks.saturating_mul(self.kv.block_tokens).min(self.max_model_len)
    }

    /// Checks that `job` can run at all.
    ///
    /// # Errors
    /// [`Error::TooLong`] when prompt and output exceed the KV cache or `max_model_len`, [`Error::Field`] when one is 0.
    pub(super) fn check(&self, job: &Job) -> Result<()> {
        for (field, tokens) in [("prompt_tokens", job.prompt_tokens), ("output_tokens", job.output_tokens)] {
            if tokens == 0 {
                return Err(Error::field(field, tokens, "at least 1"));
            }
        }
        let total = u64::from(job.prompt_tokens) + u64::from(job.output_tokens);
        let kv_tokens = u64::from(self.kv.blocks) * u64::from(self.kv.block_tokens);
        for (limit, tokens) in [("max_model_len", self.max_model_len.into()), ("kv.blocks", kv_tokens)] {
            if total > tokens {
                return Err(Error::TooLong {
                    id: job.tag,
                    prompt_tokens: job.prompt_tokens,
                    output_tokens: job.output_tokens,
                    limit,
                    tokens,
                });
            }
        }
        Ok(())
    }

    /// Blocks that `tokens` take.
    #[inline]
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.kv.block_tokens)
    }
}

/// Log-normal noise on step times: one factor per instance, one per slice of 250 ms of engine time.
///
/// The factor of a slice is a function of (seed, instance, slice), from a counter-based generator, so that every policy
/// meets the same noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    seed: u64,
    instance: u32,
    slice_sigma: f64,
    instance_factor: f64,
}

impl Noise {
    /// Noise with the given standard deviations of the logarithm.
    ///
    /// # Errors
    /// [`Error::Field`] for a sigma outside of 0 to 1.
    pub fn new(seed: u64, instance: u32, slice_sigma: f64, instance_sigma: f64) -> Result<Self> {
        for (field, sigma) in [("step_noise", slice_sigma), ("instance_noise", instance_sigma)] {
            if !(0.0..=1.0).contains(&sigma) {
                return Err(Error::field(field, sigma, "a standard deviation from 0 to 1"));
            }
        }
        // Slice numbers stay below 2^63, so the counter 2^63 is the instance's own.
        let instance_factor = libm::exp(instance_sigma * normal(seed, instance, 1 << 63));
        Ok(Self { seed, instance, slice_sigma, instance_factor })
    }

    /// The factor of the slice that holds `at`.
    pub fn scale(&self, at: Picos) -> Scale {
        let slice = at.0.div_euclid(NOISE_SLICE.0).cast_unsigned();
        let factor =
            self.instance_factor * libm::exp(self.slice_sigma * normal(self.seed, self.instance, slice));
        Scale::new(factor).unwrap_or(Scale::ONE)
    }
}

/// A standard normal number for (seed, instance, counter), by Box and Muller.
fn normal(seed: u64, instance: u32, counter: u64) -> f64 {
    let mut generator = ChaCha8Rng::seed_from_u64(seed ^ counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    generator.set_stream(u64::from(instance));
    let open = |bits: u64| ((bits >> 11) as f64 + 0.5) * (1.0 / 9_007_199_254_740_992.0);
    let (radius, angle) = (open(generator.next_u64()), open(generator.next_u64()));
    libm::sqrt(-2.0 * libm::log(radius)) * libm::cos(std::f64::consts::TAU * angle)
}
