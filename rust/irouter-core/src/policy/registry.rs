//! Every policy by name.
//!
//! To add one: write its file, which implements [`Policy`] and [`Configurable`], and give it a line in the table below.
//! A rule of another router goes into `peers/`. The contract test (`tests/router/policy_contract.rs`) then runs over it by
//! itself.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

use super::central::{ByArrival, Central, ShortestFirst};
use super::configurable::{Configurable, Tunable};
use super::decode_balancer::DecodeBalancer;
use super::dedicated_split::DedicatedSplit;
use super::guided::Guided;
use super::join_shortest_queue::JoinShortestQueue;
use super::least_impact::LeastImpact;
use super::least_requests::LeastRequests;
use super::least_work::LeastWork;
use super::least_work_oracle::LeastWorkOracle;
use super::max_capacity::MaxCapacity;
use super::min_min::MinMin;
use super::ordered_hold::LikelyRoom;
use super::paper_agent::PaperAgent;
use super::peers::aibrix_drain_rate::AibrixDrainRate;
use super::peers::aibrix_least_latency::AibrixLeastLatency;
use super::peers::aibrix_prefix::AibrixPrefix;
use super::peers::block_simulate::BlockSimulate;
use super::peers::cache_aware::CacheAware;
use super::peers::cache_aware_smg::CacheAwareSmg;
use super::peers::consistent_hash::ConsistentHash;
use super::peers::dynamo_kv::DynamoKv;
use super::peers::dynamo_kv_osl::DynamoKvOsl;
use super::peers::least_kv::LeastKv;
use super::peers::litellm_latency::LitellmLatency;
use super::peers::litellm_least_busy::LitellmLeastBusy;
use super::peers::llmd_default::LlmdDefault;
use super::peers::llmd_predicted_latency::LlmdPredictedLatency;
use super::peers::llmd_token_load::LlmdTokenLoad;
use super::peers::llumnix::Llumnix;
use super::peers::lmetric::Lmetric;
use super::peers::power_of_two_stale::PowerOfTwoStale;
use super::peers::power_of_two_tokens::PowerOfTwoTokens;
use super::peers::prefix_hash::PrefixHash;
use super::peers::production_stack_load::ProductionStackLoad;
use super::peers::ray_prefix_affinity::RayPrefixAffinity;
use super::peers::smg_least_load::SmgLeastLoad;
use super::peers::vllm_dp::VllmDp;
use super::power_of_two::PowerOfTwo;
use super::random::Random;
use super::room::FreeBlocks;
use super::round_robin::RoundRobin;
use super::session_affinity::SessionAffinity;
use super::{Needs, Policy};

use Origin::{Common, Own, Paper};

/// Where a policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Common knowledge of load balancing.
    Common,
    /// A baseline of the paper (Jain et al., arXiv 2408.13510).
    Paper,
    /// A rule of another router, written again from its published formula.
    Peer {
        /// Whether a test compares its decisions with those of the router's own package.
        conformance_tested: bool,
    },
    /// This project.
    Own,
}

/// A rule of another router whose decisions no test compares with that router's package.
const PEER: Origin = Origin::Peer { conformance_tested: false };

/// A rule of another router whose decisions a test compares with that router's package (`docs/conformance.md`).
const TESTED_PEER: Origin = Origin::Peer { conformance_tested: true };

/// A policy in the table.
#[derive(Clone, Copy)]
pub struct RegistryEntry {
    /// Name.
    pub name: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// Where it comes from.
    pub origin: Origin,
    /// Constants that a search may set.
    pub tunable: &'static [Tunable],
    equalised: &'static str,
    constructor: fn(&str, Value, u64) -> Result<Box<dyn Policy>>,
    defaults: fn() -> Value,
}

const fn entry<P: Configurable>(
    name: &'static str,
    origin: Origin,
    description: &'static str,
) -> RegistryEntry {
    RegistryEntry {
        name,
        description,
        origin,
        tunable: P::TUNABLE,
        equalised: P::EQUALISED,
        constructor: |name, options, seed| {
            let options: P::Options = serde_json::from_value(options).map_err(|error| Error::Schema {
                what: format!("options of policy `{name}`"),
                message: error.to_string(),
            })?;
            Ok(Box::new(P::new(options, seed)?))
        },
        defaults: || serde_json::to_value(P::Options::default()).unwrap_or_default(),
    }
}

/// One line per policy; rules of other routers by router.
#[rustfmt::skip]
static REGISTRY: &[RegistryEntry] = &[
    entry::<Random>("random", Common, "any ready instance, with equal probability"),
    entry::<RoundRobin>("round_robin", Common, "each ready instance in turn"),
    entry::<LeastRequests>("least_requests", Common, "fewest requests in flight"),
    entry::<PowerOfTwo>("power_of_two", Common, "the less busy of two random instances, by requests in flight"),
    entry::<SessionAffinity>("session_affinity", Common, "a session stays where it is; new ones go to the fewest requests"),
    entry::<DedicatedSplit>("dedicated_split", Paper, "long predicted outputs to one group of instances, short ones to the other"),
    entry::<JoinShortestQueue>("join_shortest_queue", Paper, "fewest prompt and predicted output tokens still to process"),
    entry::<MaxCapacity>("max_capacity", Paper, "once a second, from the head of the queue to the most free KV cache that can take it"),
    entry::<MinMin>("min_min", Paper, "the waiting request that some instance completes first, by the upper bound of its predicted bucket"),
    entry::<DecodeBalancer>("decode_balancer", Paper, "oracle: fewest true output tokens assigned"),
    entry::<VllmDp>("vllm_dp", PEER, "vLLM data parallel: four times the waiting plus the running requests of the last statistics"),
    entry::<PowerOfTwoStale>("power_of_two_stale", TESTED_PEER, "vllm-router power_of_two: the lower polled load of two random instances, what was sent since not counted"),
    entry::<ConsistentHash>("consistent_hash", TESTED_PEER, "vllm-router consistent_hash: session or prompt on a hash ring, blind to load"),
    entry::<CacheAware>("cache_aware", TESTED_PEER, "SGLang router and vllm-router cache_aware: the longest prefix match, fewest requests on a miss or when imbalanced"),
    entry::<ProductionStackLoad>("production_stack_load", PEER, "vLLM production stack loadaware: cached share of the prompt less the load relative to the mean"),
    entry::<PowerOfTwoTokens>("power_of_two_tokens", TESTED_PEER, "SMG power_of_two: the lower least_load score of two random instances"),
    entry::<SmgLeastLoad>("smg_least_load", TESTED_PEER, "SMG least_load: reported and since dispatched prompt tokens and running requests as time, plus a KV pressure term"),
    entry::<CacheAwareSmg>("cache_aware_smg", TESTED_PEER, "SMG cache_aware: the longest prefix match unless overloaded there, the least_load score on a miss"),
    entry::<PrefixHash>("prefix_hash", TESTED_PEER, "SMG prefix_hash: the first 256 tokens on a hash ring, fewest requests when overloaded there"),
    entry::<LeastKv>("least_kv", PEER, "AIBrix least-kv-cache: the lowest reported KV usage"),
    entry::<AibrixLeastLatency>("aibrix_least_latency", PEER, "AIBrix least-latency: mean queue time of the past plus mean prefill and decode time per token"),
    entry::<AibrixDrainRate>("aibrix_drain_rate", PEER, "AIBrix: running requests over the rate at which requests completed in the last minute"),
    entry::<AibrixPrefix>("aibrix_prefix", PEER, "AIBrix prefix-cache: the longest prefix match that is not far above the mean load, the idlest when imbalanced"),
    entry::<LlmdDefault>("llmd_default", PEER, "llm-d default scorers: queue, KV usage and cached prefix, weighted 2 : 2 : 3"),
    entry::<LlmdTokenLoad>("llmd_token_load", PEER, "llm-d optimized baseline: sticky to cached prefixes until saturated, then fewest uncached tokens in flight"),
    entry::<LlmdPredictedLatency>("llmd_predicted_latency", PEER, "llm-d predicted latency: p90 TTFT and TPOT by boosted trees trained on the run, weighted random"),
    entry::<DynamoKv>("dynamo_kv", TESTED_PEER, "Dynamo KV router: prefill blocks to compute plus active decode blocks"),
    entry::<DynamoKvOsl>("dynamo_kv_osl", TESTED_PEER, "Dynamo KV router with output blocks, which weigh less as a request nears its expected length"),
    entry::<RayPrefixAffinity>("ray_prefix_affinity", TESTED_PEER, "Ray Serve prefix affinity: the longest prefix match, the smallest tree on a miss, load never as shipped"),
    entry::<LitellmLatency>("litellm_latency", TESTED_PEER, "LiteLLM latency-based routing: lowest mean latency of the last ten completed requests"),
    entry::<LitellmLeastBusy>("litellm_least_busy", TESTED_PEER, "LiteLLM least-busy: fewest requests in flight, the first of equals"),
    entry::<Llumnix>("llumnix", PEER, "Llumnix: most KV blocks free per request, or lowest KV demand"),
    entry::<Lmetric>("lmetric", PEER, "LMetric: prefill tokens to compute times batch size"),
    entry::<BlockSimulate>("block_simulate", PEER, "Block: simulates every instance with predicted lengths, and takes the least predicted E2E"),
    entry::<LeastWork>("least_work", Own, "least predicted work in seconds, cached prefixes counted"),
    entry::<LeastWorkOracle>("least_work_oracle", Own, "oracle: the same with true output lengths"),
    entry::<LeastImpact>("least_impact", Own, "least latency impact: the request's own end to end and what it costs those there, looked ahead"),
    entry::<Central<ByArrival, FreeBlocks>>("central_fcfs", Own, "central queue in order of arrival; dispatches when an engine has a free slot"),
    entry::<Central<ShortestFirst, FreeBlocks>>("central_shortest", Own, "the same queue by least predicted work, with ageing"),
    entry::<Guided>("guided", Own, "learned: scores pairs of waiting request and instance, and holds, by features of both and of the forecast"),
    entry::<Central<ShortestFirst, LikelyRoom>>("ordered_hold", Own, "shortest first with ageing; held while the KV cache would probably overflow, by forecast"),
];

/// A policy that cannot run without a file of the user's own, and is not listed for that.
static TRAINED: RegistryEntry =
    entry::<PaperAgent>("paper_agent", Paper, "the paper's agent with the weights that it was trained to");

/// Every policy, in the order in which they are listed to users.
pub fn registry() -> &'static [RegistryEntry] {
    REGISTRY
}

/// The policy of that name.
///
/// # Errors
/// [`Error::Unknown`] with the nearest name.
pub(super) fn find(name: &str) -> Result<&'static RegistryEntry> {
    let found = REGISTRY.iter().chain([&TRAINED]).find(|entry| entry.name == name);
    found.ok_or_else(|| Error::unknown("policy", name, REGISTRY.iter().map(|entry| entry.name)))
}

impl RegistryEntry {
    /// Its constants with their defaults: an object.
    pub fn default_options(&self) -> Value {
        (self.defaults)()
    }

    /// Options with which it has what this router knows ([`Configurable::EQUALISED`]): an object.
    pub fn equalised_options(&self) -> Value {
        serde_json::from_str(self.equalised).unwrap_or_default()
    }

    /// What it has to be told when its options are the defaults.
    ///
    /// # Errors
    /// None with the policies of the table.
    pub fn needs(&self) -> Result<Needs> {
        Ok(self.build(&Map::new(), 0)?.needs())
    }

    /// Builds it with these options and the defaults of all others.
    ///
    /// # Errors
    /// As [`super::PolicySpec::build`].
    pub(super) fn build(&self, options: &Map<String, Value>, seed: u64) -> Result<Box<dyn Policy>> {
        let defaults = self.default_options();
        let known = || defaults.as_object().into_iter().flat_map(|known| known.keys().map(String::as_str));
        if let Some(bad) = options.keys().find(|option| known().all(|name| name != option.as_str())) {
            return Err(Error::unknown("policy option", bad, known()));
        }
        (self.constructor)(self.name, Value::Object(options.clone()), seed)
    }
}

impl Origin {
    /// In one word, and whether a test compares its decisions with its own package's.
    fn describe(self) -> (&'static str, bool) {
        match self {
            Self::Common => ("common", false),
            Self::Paper => ("paper", false),
            Self::Peer { conformance_tested } => ("peer", conformance_tested),
            Self::Own => ("own", false),
        }
    }
}

impl Serialize for RegistryEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (origin, conformance_tested) = self.origin.describe();
        let mut entry = serializer.serialize_struct("RegistryEntry", 7)?;
        entry.serialize_field("name", self.name)?;
        entry.serialize_field("description", self.description)?;
        entry.serialize_field("origin", origin)?;
        entry.serialize_field("conformance_tested", &conformance_tested)?;
        entry.serialize_field("options", &self.default_options())?;
        entry.serialize_field("equalised", &self.equalised_options())?;
        entry.serialize_field("tunable", self.tunable)?;
        entry.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Scale;

    #[test]
    fn names_are_unique_and_descriptions_are_one_line() {
        for (index, entry) in registry().iter().enumerate() {
            assert!(registry()[..index].iter().all(|before| before.name != entry.name), "{}", entry.name);
            assert!(!entry.description.is_empty() && !entry.description.contains('\n'), "{}", entry.name);
        }
    }

    #[test]
    fn default_options_build_the_policy_when_written_out() {
        for entry in registry() {
            let Value::Object(options) = entry.default_options() else { panic!("{}: no object", entry.name) };
            let built = entry.build(&options, 7);
            assert!(built.is_ok(), "{}: {}", entry.name, built.err().unwrap());
        }
    }

    #[test]
    fn equalised_options_and_both_ends_of_every_tunable_build_the_policy() {
        for entry in registry() {
            let Value::Object(equalised) = entry.equalised_options() else { panic!("{}", entry.name) };
            let mut cases = vec![equalised.clone()];
            for tunable in entry.tunable {
                assert!(tunable.low < tunable.high, "{}: {tunable:?}", entry.name);
                for end in [tunable.low, tunable.high] {
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "counts are written as whole numbers"
                    )]
                    let count = Value::from(end as i64);
                    let value = if tunable.scale == Scale::Count { count } else { end.into() };
                    let mut options = equalised.clone();
                    options.insert(tunable.option.into(), value);
                    cases.push(options);
                }
            }
            for options in cases {
                let built = entry.build(&options, 7);
                assert!(built.is_ok(), "{} {options:?}: {}", entry.name, built.err().unwrap());
            }
        }
    }

    #[test]
    fn a_search_can_find_every_default() {
        for entry in registry() {
            let defaults = entry.default_options();
            for tunable in entry.tunable {
                // Without a value the constant is off as shipped.
                let Some(default) = defaults[tunable.option].as_f64() else {
                    assert!(defaults[tunable.option].is_null(), "{}: {tunable:?}", entry.name);
                    continue;
                };
                assert!(
                    (tunable.low..=tunable.high).contains(&default),
                    "{}: {tunable:?}, {default}",
                    entry.name
                );
            }
        }
    }

    #[test]
    fn only_oracles_ask_for_true_lengths() {
        let oracles = registry().iter().filter(|entry| entry.needs().unwrap().truth);
        let names: Vec<_> = oracles.map(|entry| entry.name).collect();
        assert_eq!(names, ["decode_balancer", "least_work_oracle"]);
    }
}
