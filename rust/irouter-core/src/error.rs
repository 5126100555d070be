//! Errors of the core: each names the bad value and what was expected.

use std::fmt;

use crate::ids::{InstanceId, RequestKey};
use crate::time::Picos;

/// Result of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the core.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A predicted quantile is out of order.
    #[error("quantile {value} tokens at level {level} must be finite and at least {below}")]
    Quantile {
        /// Probability of the quantile.
        level: f64,
        /// The bad value.
        value: f64,
        /// The quantile before it.
        below: f64,
    },
    /// A field of a profile or configuration is out of range.
    #[error("`{field}` is {value}, expected {expected}")]
    Field {
        /// Path of the field.
        field: String,
        /// The bad value.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// A profile or configuration is not valid JSON of its schema.
    #[error("{what}: {message}")]
    Schema {
        /// What was being read.
        what: String,
        /// The parser's message with line and column.
        message: String,
    },
    /// A name is not known.
    #[error("unknown {kind} `{name}`{}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// What kind of name.
        kind: &'static str,
        /// The bad name.
        name: String,
        /// The nearest known name, when one is near.
        nearest: Option<String>,
    },
    /// A request can never run on an instance.
    #[error(
        "request {id}: prompt {prompt_tokens} + output {output_tokens} tokens exceed `{limit}` = {tokens} tokens"
    )]
    TooLong {
        /// The caller's number of the request.
        id: u64,
        /// Its prompt.
        prompt_tokens: u32,
        /// Its output, as far as the rule counts it.
        output_tokens: u32,
        /// Which limit it breaks.
        limit: &'static str,
        /// The limit in tokens.
        tokens: u64,
    },
    /// Time went backwards.
    #[error("time went back from {from} to {to}")]
    TimeWentBack {
        /// The latest time seen.
        from: Picos,
        /// The earlier time given.
        to: Picos,
    },
    /// A clock or a step time left the range of an `i64` of picoseconds.
    #[error("time overflow at {at}: picoseconds in 64 bits last 106 days from the epoch")]
    TimeOverflow {
        /// The last good time.
        at: Picos,
    },
    /// An event names a request that the router does not hold (any more).
    #[error("{request} is not known: it was never submitted, or has ended")]
    UnknownRequest {
        /// The key in the event.
        request: RequestKey,
    },
    /// An event names an instance that is not there.
    #[error("{instance} is not in the cluster")]
    UnknownInstance {
        /// The number in the event.
        instance: InstanceId,
    },
    /// An event does not fit the state.
    #[error("event `{event}` for {subject} is impossible: {reason}")]
    ImpossibleEvent {
        /// Name of the event.
        event: &'static str,
        /// Request or instance it names.
        subject: String,
        /// Why.
        reason: String,
    },
    /// No instance can take requests.
    #[error("no instance is ready: {known} known, all draining or gone")]
    NoInstance {
        /// How many are known at all.
        known: usize,
    },
    /// A policy chose an instance that cannot take requests.
    #[error("policy `{policy}` chose {instance}, which is {found}; expected a ready instance")]
    BadChoice {
        /// Name of the policy.
        policy: String,
        /// What it chose.
        instance: InstanceId,
        /// What that instance is.
        found: &'static str,
    },
    /// A policy chose an instance that can never hold the request.
    #[error("policy `{policy}` chose {instance}, which can never hold the request: {reason}")]
    NeverFits {
        /// Name of the policy.
        policy: String,
        /// What it chose.
        instance: InstanceId,
        /// The limit that the request breaks there: [`Error::TooLong`].
        reason: Box<Error>,
    },
    /// A policy holds with nothing that could end the hold.
    #[error("policy `{policy}` holds {waiting} requests with no pending event and no timer")]
    EndlessHold {
        /// Name of the policy.
        policy: String,
        /// Requests at the router.
        waiting: usize,
    },
    /// A policy failed.
    #[error("policy `{policy}` failed: {message}")]
    Policy {
        /// Name of the policy.
        policy: String,
        /// What it said.
        message: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

impl Error {
    /// A field that is out of range.
    pub fn field(field: impl Into<String>, value: impl fmt::Display, expected: impl Into<String>) -> Self {
        Self::Field { field: field.into(), value: value.to_string(), expected: expected.into() }
    }

    /// A name that is none of `known`, with the nearest one if at most a third of its letters differ.
    pub fn unknown<'a>(kind: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let nearest = known
            .into_iter()
            .map(|candidate| (edit_distance(name, candidate), candidate))
            .min()
            .filter(|&(distance, candidate)| distance * 3 <= candidate.len().max(name.len()))
            .map(|(_, candidate)| candidate.to_owned());
        Self::Unknown { kind, name: name.to_owned(), nearest }
    }
}

/// Levenshtein distance in characters.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, &to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_suggests_the_nearest() {
        let error = Error::unknown("policy", "round_robbin", ["random", "round_robin"]);
        assert_eq!(error.to_string(), "unknown policy `round_robbin`; did you mean `round_robin`?");
        assert_eq!(Error::unknown("policy", "zzz", ["random"]).to_string(), "unknown policy `zzz`");
    }
}
