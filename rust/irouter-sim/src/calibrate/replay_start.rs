//! Step times read off a request log without a replay: where the search for those that replay it starts.

use super::requests::RequestRecord;
use super::robust::relative_fit;

/// The least part of the time per token that a coefficient's term is taken to be, at a batch of 64, a context of 50,000
/// and a prompt of 8,000 tokens: the search multiplies, so it cannot leave zero.
const LEAST_SHARE: f64 = 1e-3;

/// Form `A`'s coefficients `(constant, P, S, D, K)` by least squares over the times between first and last token.
///
/// A request of n tokens sees n - 1 steps between them. In these the engine also prefilled every request whose first
/// token lies between, and decoded the others for as long as they overlap, at an even pace. Requests that were alone
/// until their first token add that time. A preempted request breaks the rule and is an outlier to the robust fit.
pub(super) fn coefficients_of(records: &[RequestRecord], skip: &[bool]) -> [f64; 5] {
    let mut rows = Vec::new();
    let mut measured = Vec::new();
    for (index, record) in records.iter().enumerate().filter(|&(index, _)| !skip[index]) {
        if record.output_tokens > 1 && record.last_token_s > record.first_token_s {
            rows.push(decode_row(records, index));
            measured.push(1e3 * (record.last_token_s - record.first_token_s));
        }
        if was_alone(records, index) {
            let prompt = f64::from(record.input_tokens);
            rows.push(vec![1.0, prompt, prompt * prompt / 2.0, 0.0, 0.0]);
            measured.push(1e3 * (record.first_token_s - record.arrival_s));
        }
    }
    let fitted = relative_fit(&rows, &measured, &[0.0; 5]);
    let per_token = 1e3 * records.iter().map(|record| record.last_token_s - record.arrival_s).sum::<f64>()
        / records.iter().map(|record| f64::from(record.output_tokens)).sum::<f64>();
    let least =
        [1.0, 1.0, 1.0 / 8e3, 1.0 / 64.0, 1.0 / 5e4].map(|part| LEAST_SHARE * part * per_token.max(1e-3));
    std::array::from_fn(|index| fitted[index].max(least[index]))
}

fn decode_row(records: &[RequestRecord], index: usize) -> Vec<f64> {
    let window = &records[index];
    let (mut tokens, mut pairs, mut decodes, mut context) = (0.0, 0.0, 0.0, 0.0);
    for other in records {
        let prompt = f64::from(other.input_tokens);
        if window.first_token_s < other.first_token_s && other.first_token_s <= window.last_token_s {
            tokens += prompt;
            pairs += prompt * prompt / 2.0;
        }
        let span = other.last_token_s - other.first_token_s;
        let from = window.first_token_s.max(other.first_token_s);
        let to = window.last_token_s.min(other.last_token_s);
        if span > 0.0 && to > from {
            let pace = f64::from(other.output_tokens - 1) / span;
            let produced = pace * (to - from);
            let middle = pace * (f64::midpoint(from, to) - other.first_token_s);
            decodes += produced;
            context += produced * (prompt + middle);
        }
    }
    vec![f64::from(window.output_tokens - 1), tokens, pairs, decodes, context]
}

/// Whether no other request was in the engine between this one's arrival and its first token.
fn was_alone(records: &[RequestRecord], index: usize) -> bool {
    let record = &records[index];
    records.iter().enumerate().all(|(other, found)| {
        other == index || found.last_token_s <= record.arrival_s || record.first_token_s <= found.arrival_s
    })
}
