//! Counts: the state of the paper's agents (Jain et al., section 5.3 and appendix A.9), for any number of instances.

use crate::ids::InstanceId;
use crate::policy::{ClusterView, Needs, QueueView};
use crate::profile::Scale;
use crate::request::Request;
use crate::state::{InstanceState, Resident};

/// Edges between the buckets of output tokens: 0 to 256, 256 to 2,048, 2,048 and more.
pub const BUCKET_EDGES: [f64; 2] = [256.0, 2048.0];
const BUCKETS: usize = BUCKET_EDGES.len() + 1;
/// Requests beyond these are not told apart: four times the paper's largest batch.
const MOST_REQUESTS: f64 = 512.0;
/// Seconds beyond these are not told apart.
const MOST_SECONDS: f64 = 1000.0;
/// Tokens that each request in flight is to have room for to grow: what it decodes in about a second on the paper's engine.
const GROWTH_TOKENS: f64 = 32.0;

/// Numbers about the queue, and about each instance.
const QUEUE: [&str; 3] = ["queue_requests", "head_prompt_tokens", "head_bucket"];
const INSTANCE: [&str; 6] = [
    "prompt_phase_requests",
    "short_decode_requests",
    "middle_decode_requests",
    "long_decode_requests",
    "free_capacity",
    "earliest_completion_s",
];

/// How many numbers describe a cluster of `instances` instances: `3 + 6 instances`.
///
/// ```text
/// queue:     requests, prompt tokens of the head, bucket of its expected output (0, 1 or 2)
/// instance:  requests without a first token, requests with one by bucket (3), free capacity, earliest completion
/// ```
///
/// The paper counts 27 numbers for 4 instances, and speaks of prompt and of decode buckets; its prompts are so short that
/// they fall into one bucket, and one count of the prompt phase with three of the decode phase is what gives 27.
///
/// * bucket: of the expected output, given what has been produced;
/// * free capacity: the lesser of the free share of the batch slots and the spare share of the KV cache ([`takes`]), rounded to
///   two decimals. The paper's function of the same inputs is not published;
/// * earliest completion: seconds until the first request in flight is done, rounded to two decimals: its expected
///   remaining tokens at the duration of a decode step of the instance's present batch, plus, without a first token, all
///   prompt tokens still to compute. 0 on an idle instance;
/// * counts are cut at 512, seconds at 1,000. An instance that takes no requests shows zeros.
pub fn width(instances: usize) -> usize {
    QUEUE.len() + INSTANCE.len() * instances
}

/// The largest cluster that `width` numbers describe exactly, if any.
pub fn instances(width: usize) -> Option<usize> {
    let instances = width.checked_sub(QUEUE.len())? / INSTANCE.len();
    (instances > 0 && self::width(instances) == width).then_some(instances)
}

/// Names of the numbers, in order.
pub fn names(instances: usize) -> Vec<String> {
    let queue = QUEUE.iter().map(ToString::to_string);
    let each = (0..instances)
        .flat_map(|instance| INSTANCE.iter().map(move |name| format!("instance_{instance}_{name}")));
    queue.chain(each).collect()
}

/// The largest value of each number, where prompts have at most `prompt_tokens`; the smallest is 0.
pub fn highest(instances: usize, prompt_tokens: u32) -> Vec<f32> {
    let queue = [MOST_REQUESTS, f64::from(prompt_tokens), (BUCKETS - 1) as f64];
    let instance = [MOST_REQUESTS, MOST_REQUESTS, MOST_REQUESTS, MOST_REQUESTS, 1.0, MOST_SECONDS];
    let each = (0..instances).flat_map(|_| instance);
    queue.into_iter().chain(each).map(narrow).collect()
}

/// What has to be kept up to date.
pub fn needs() -> Needs {
    Needs { counts: true, progress: true, ..Needs::default() }
}

/// Writes the numbers into `out`, which has the [`width`] of the cluster that is meant: instances beyond it are not shown.
pub fn encode(view: &ClusterView<'_>, queue: &QueueView<'_>, out: &mut [f32]) {
    describe_all(view, queue.len(), queue.head().map(|head| head.request), out);
}

/// The same for a request that is alone in the queue.
pub fn encode_request(view: &ClusterView<'_>, request: &Request, out: &mut [f32]) {
    describe_all(view, 1, Some(request), out);
}

fn describe_all(view: &ClusterView<'_>, waiting: usize, head: Option<&Request>, out: &mut [f32]) {
    out.fill(0.0);
    let (of_queue, of_instances) = out.split_at_mut(QUEUE.len());
    of_queue[0] = narrow((waiting as f64).min(MOST_REQUESTS));
    if let Some(request) = head {
        of_queue[1] = narrow(f64::from(request.prompt_tokens));
        of_queue[2] = narrow(f64::from(bucket(expected_output(request))));
    }
    for (instance, out) in view.instances.iter().zip(of_instances.chunks_exact_mut(INSTANCE.len())) {
        if instance.is_ready() {
            describe(instance, view.residents(instance.id()), out);
        }
    }
}

/// Expected output tokens of a request that has not started.
pub fn expected_output(request: &Request) -> f64 {
    request.predicted.mean(request.max_tokens)
}

fn bucket(tokens: f64) -> u8 {
    u8::from(tokens >= BUCKET_EDGES[0]) + u8::from(tokens >= BUCKET_EDGES[1])
}

fn describe<'a>(instance: &InstanceState, residents: impl Iterator<Item = Resident<'a>>, out: &mut [f32]) {
    let mut decoding = [0_u32; BUCKETS];
    // The fewest tokens to come of a request with and of one without a first token.
    let (mut fewest, mut fewest_new) = (f64::INFINITY, f64::INFINITY);
    for Resident { produced, remaining_tokens, .. } in residents {
        if produced == 0 {
            fewest_new = fewest_new.min(remaining_tokens);
        } else {
            fewest = fewest.min(remaining_tokens);
            decoding[usize::from(bucket(f64::from(produced) + remaining_tokens))] += 1;
        }
    }
    let count = |requests: u32| narrow(f64::from(requests).min(MOST_REQUESTS));
    out[0] = count(instance.awaiting_first_token());
    for (out, requests) in out[1..=BUCKETS].iter_mut().zip(decoding) {
        *out = count(requests);
    }
    out[4] = narrow(rounded(free_capacity(instance)));
    if instance.in_flight() > 0 {
        let batch = decoding.iter().sum::<u32>().max(1);
        let decode = instance.config().steps.decode_run(batch, instance.context_tokens(), Scale::ONE);
        let step_s = decode.step(0).as_seconds();
        let prefill_s = instance.queued_prefill_tokens() as f64 * instance.rates().prefill_seconds_per_token;
        let earliest_s = (fewest * step_s).min(fewest_new.mul_add(step_s, prefill_s));
        out[5] = narrow(rounded(earliest_s.min(MOST_SECONDS)));
    }
}

fn free_capacity(instance: &InstanceState) -> f64 {
    let slots = f64::from(instance.in_flight()) / f64::from(instance.config().scheduler.max_num_seqs);
    let tokens = spare_tokens(instance) / instance.kv_capacity_tokens() as f64;
    (1.0 - slots).min(tokens).max(0.0)
}

/// KV cache that neither prompts and known output nor the growth of the requests in flight will take, in tokens.
fn spare_tokens(instance: &InstanceState) -> f64 {
    let growth = GROWTH_TOKENS * f64::from(instance.in_flight());
    instance.kv_capacity_tokens() as f64 - instance.context_tokens() as f64 - growth
}

/// Whether the instance may have the request: it takes requests, can hold this one, and has the spare capacity that the paper's
/// router asks for before it sends one: a free batch slot, and more spare KV cache than the prompt needs.
///
/// ```text
/// spare = KV cache - (prompt + known output tokens of all in flight) - 32 x in flight        (tokens)
/// ```
///
/// The paper's capacity is a function of the batch size and of the requests in both phases that it does not print. Without room
/// to grow, every request sent into the last blocks costs a preemption. An idle instance takes whatever it can hold.
pub fn takes(view: &ClusterView<'_>, instance: InstanceId, request: &Request) -> bool {
    view.offers(instance) && {
        let instance = &view.instances[instance.index()];
        let has_slot = instance.in_flight() < instance.config().scheduler.max_num_seqs;
        let has_room = instance.in_flight() == 0 || spare_tokens(instance) > f64::from(request.prompt_tokens);
        has_slot && has_room && instance.holds(request).is_ok()
    }
}

/// To two decimals.
fn rounded(value: f64) -> f64 {
    libm::round(value * 100.0) / 100.0
}

#[expect(clippy::cast_possible_truncation, reason = "agents compute in single precision")]
fn narrow(value: f64) -> f32 {
    value as f32
}
