//! `dynamo_kv_osl`: Dynamo's KV router, told how long outputs will be.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::time::Picos;

use super::dynamo_kv::{COST_TUNABLE, DynamoKv, DynamoKvOptions};
use crate::policy::configurable::{Configurable, Tunable};
use crate::policy::estimate::expected_output_tokens;
use crate::policy::{ClusterView, End, Needs, Policy};

/// Dynamo's KV cost with output blocks tracked, as of `ai-dynamo-runtime` 1.6 with `router_track_output_blocks`
/// (B20 of the peers' list).
///
/// The cost of [`DynamoKv`], where `D` also counts a block for each `block_tokens` by which a request has grown beyond its
/// prompt. With an expected length, all blocks that the request alone uses, prompt and output, weigh
///
/// ```text
/// max(0, 1 - produced / expected)        (tokens)
/// ```
///
/// as of the last block that it grew by; `D` is rounded to whole blocks. Dynamo takes the expected length from a hint of
/// the client (`nvext.agent_hints.osl`). `expected_output` says what stands for the hint: `none`, as when no client gives
/// one; `max_tokens`, as Ray Serve's KV router does; or `predicted`, the predicted mean. Output is known in multiples of
/// the router's progress cadence, 16 tokens, so that a block may be counted as much late.
///
/// Ties and everything else are as in [`DynamoKv`].
#[derive(Clone, Debug)]
pub(crate) struct DynamoKvOsl {
    options: DynamoKvOslOptions,
    kv: DynamoKv,
}

/// Constants of [`DynamoKvOsl`]: those of [`DynamoKvOptions`], and two more.
// Names that are neither are refused by the registry: serde cannot refuse them beside flattened ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DynamoKvOslOptions {
    /// Those of the cost.
    #[serde(flatten)]
    pub kv: DynamoKvOptions,
    /// Tokens of a block of output: 16.
    pub block_tokens: u32,
    /// What the length of an output is expected to be: `none`.
    pub expected_output: ExpectedOutput,
}

impl Default for DynamoKvOslOptions {
    fn default() -> Self {
        Self { kv: DynamoKvOptions::default(), block_tokens: 16, expected_output: ExpectedOutput::None }
    }
}

/// What stands for the client's hint of an output length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExpectedOutput {
    /// No hint: output blocks weigh as much as any.
    #[default]
    None,
    /// The most that the request may produce.
    MaxTokens,
    /// The predicted mean.
    Predicted,
}

impl ExpectedOutput {
    fn tokens(self, request: &Request) -> Option<f64> {
        match self {
            Self::None => None,
            Self::MaxTokens => Some(f64::from(request.max_tokens)),
            Self::Predicted => Some(expected_output_tokens(request)),
        }
    }
}

impl Configurable for DynamoKvOsl {
    type Options = DynamoKvOslOptions;

    const EQUALISED: &'static str = r#"{"expected_output": "predicted"}"#;
    const TUNABLE: &'static [Tunable] = COST_TUNABLE;

    fn new(options: DynamoKvOslOptions, seed: u64) -> Result<Self> {
        if options.block_tokens == 0 {
            return Err(Error::field("block_tokens", 0, "at least 1"));
        }
        Ok(Self { options, kv: DynamoKv::new(options.kv, seed)? })
    }
}

impl Policy for DynamoKvOsl {
    fn needs(&self) -> Needs {
        Needs { progress: true, ..self.kv.needs() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        self.kv.place(view, request)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.kv.dispatched(request, instance, now);
    }

    fn progressed(&mut self, request: &Request, instance: InstanceId, tokens: u32) {
        let DynamoKvOslOptions { block_tokens, expected_output, .. } = self.options;
        self.kv.grown(request, instance, tokens, block_tokens, expected_output.tokens(request));
    }

    fn released(&mut self, request: &Request, instance: InstanceId, end: End) {
        self.kv.released(request, instance, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    fn policy(expected_output: ExpectedOutput) -> DynamoKvOsl {
        DynamoKvOsl::new(DynamoKvOslOptions { expected_output, ..Default::default() }, 0).unwrap()
    }

    /// Where the next request goes: two started ones, one near its end by the prediction, and a later, smaller one.
    fn choice(expected_output: ExpectedOutput) -> u32 {
        let mut policy = policy(expected_output);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let near_its_end = cluster.dispatch(&mut policy, request(320, 64), 0);
        let at_its_start = cluster.dispatch(&mut policy, request(320, 640), 1);
        cluster.progressed(&mut policy, near_its_end, 48);
        cluster.progressed(&mut policy, at_its_start, 32);
        cluster.place(&mut policy, &request(16, 10))
    }

    #[test]
    fn a_request_near_its_expected_end_weighs_less() {
        assert_eq!(choice(ExpectedOutput::None), 1, "23 against 22 blocks");
        assert_eq!(choice(ExpectedOutput::Predicted), 0, "23 / 4 against 22 x 0.95");
        // 8,192 tokens may come of both.
        assert_eq!(choice(ExpectedOutput::MaxTokens), 1);
    }

    #[test]
    fn an_ended_request_leaves_nothing() {
        let mut policy = policy(ExpectedOutput::Predicted);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let key = cluster.dispatch(&mut policy, request(320, 64), 0);
        cluster.progressed(&mut policy, key, 48);
        cluster.finish(&mut policy, key);
        cluster.dispatch(&mut policy, request(1, 1), 1);
        assert_eq!(cluster.place(&mut policy, &request(16, 10)), 0);
    }

    #[test]
    fn options_of_the_cost_and_its_own_are_written_side_by_side() {
        let options = r#"{"temperature": 0.5, "expected_output": "max_tokens"}"#;
        let options: DynamoKvOslOptions = serde_json::from_str(options).unwrap();
        assert_eq!((options.kv.temperature, options.kv.prefill_load_scale), (0.5, 1.0));
        assert_eq!(options.expected_output, ExpectedOutput::MaxTokens);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = DynamoKvOslOptions::default();
        let bad_cost = DynamoKvOptions { temperature: -1.0, ..default.kv };
        for (options, field) in [
            (DynamoKvOslOptions { block_tokens: 0, ..default }, "block_tokens"),
            (DynamoKvOslOptions { kv: bad_cost, ..default }, "temperature"),
        ] {
            let error = DynamoKvOsl::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
