//! The features of a pair of request and instance.

/// Number of this list: weights trained on another one are refused.
pub const VERSION: u32 = 3;

/// Names of the features, in order. None has a unit: times are relative to the request's own service or to what waits, tokens to
/// the KV cache, so that one set of weights serves any model, accelerator and size of cluster.
///
/// In what follows `service` is the request's prefill and expected decode time on a full instance, `effort` its
/// [`crate::state::Effort::occupancy_seconds`], `backlog` the effort of all that wait by the ready instances, and "over the
/// least" the difference to the least among the instances looked at.
pub const FEATURES: [&str; COUNT] = [
    // Of the request: ln of its effort over the least effort among the candidates.
    "size",
    // Waited over (backlog + service), and its square by 4: at most 4 both.
    "lateness",
    "lateness_squared",
    // Waited over eight services of the mean request, and its square by 4: at most 4 both.
    "patience",
    "patience_squared",
    // Waited and service over eight services of the mean request, and its square by 4: the end, if it went now.
    "due",
    "due_squared",
    // The same with the service of the 0.9-quantile of the predicted length: those who set the tail are long, not only late.
    "due_at_worst",
    "due_at_worst_squared",
    // Waited and service over (backlog + eight services of the mean request), and its square by 4: who would end late among
    // all that wait.
    "due_in_crowd",
    "due_in_crowd_squared",
    // ln(1 + waited / service).
    "slowdown",
    // ln(1 + waited / prefill of its prompt): what it waited is what its first token came later.
    "start_slowdown",
    // Waited over the longest wait among the candidates.
    "seniority",
    // ln of the 0.9-quantile of the predicted length over the median.
    "spread",
    // Prompt over prompt and expected output.
    "prompt_share",
    // Of the queue: ln(1 + waiting by those in flight), ln(1 + backlog / service), the largest patience of a candidate.
    "waiting",
    "backlog",
    "longest_patience",
    // Of the pair: deviations by which the KV cache overflows at its forecast peak with the request, from -6 to 6; the same
    // without it; how far the first is above zero; the first over the least.
    "overflow",
    "overflow_before",
    "overflow_likely",
    "overflow_over_least",
    // Prompt and expected output over the KV cache.
    "cache_share",
    // In flight over batch slots; beyond the slots with the request, at most 8; in flight over the least by the mean.
    "slots",
    "slots_beyond",
    "in_flight_over_least",
    // Predicted work with the request, cached prefixes counted, over the least, by (mean work + service).
    "work_over_least",
    // ln(1 + prompt tokens still to be computed there, by its twin, by what a step takes), and over the least.
    "prefill",
    "prefill_over_least",
    // Uncached prompt over the least, by the prompt.
    "uncached_over_least",
    // Residents x prefill of the request over (mean work + service), and over the least.
    "delay",
    "delay_over_least",
    // ln of the twin's speed factor over the fastest: slow instances.
    "slowness",
    // The latency impact ([`crate::impact::Linear`], at the twin's speed) by the service of the mean request: the delay inflicted
    // on all there, ln(1 + it); the same over the least, and the own E2E over the least, at most 16.
    "inflicted",
    "inflicted_over_least",
    "e2e_over_least",
    // The part of the delay inflicted, over the least, that is due to a prefill step of its own.
    "stall_over_least",
    // Waited and TTFT over the service of the mean request, at most 8, and its square by 8.
    "start",
    "start_squared",
];

/// How many there are.
pub const COUNT: usize = 40;
