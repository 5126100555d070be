//! Generated workloads: an arrival process and a length model, each with a seed of its own.

mod arrivals;
mod chats;
mod lengths;
mod tables;

pub use arrivals::ArrivalSpec;
pub use chats::{ChatSpec, TurnSpec};
pub use lengths::{LengthSpec, LogNormalSpec, TaskSpec};

use serde::{Deserialize, Serialize};

use super::Workload;
use crate::error::{Result, SimError};
use crate::random::{Purpose, generator};

/// Size of the sample that stands for a generator's population.
const POPULATION: usize = 1 << 16;

/// A generator as it is written in a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorSpec {
    /// When requests arrive; of conversations, when they begin.
    pub arrivals: ArrivalSpec,
    /// How long they are.
    pub lengths: LengthSpec,
}

/// How much to generate, and from which seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Number of requests, at least 1.
    pub requests: usize,
    /// Mean requests per second; conversations begin as often as makes so many.
    pub rate: f64,
    /// Seed of the arrivals.
    pub arrival_seed: u64,
    /// Seed of the lengths.
    pub length_seed: u64,
}

impl GeneratorSpec {
    /// Reads and validates a generator.
    ///
    /// # Errors
    /// [`SimError::Schema`] for JSON that is not a generator, [`SimError::Field`] for a value out of range.
    pub fn from_json(text: &str) -> Result<Self> {
        let spec: Self = serde_json::from_str(text)
            .map_err(|error| SimError::Schema { what: "generator", message: error.to_string() })?;
        spec.validate()?;
        Ok(spec)
    }

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`SimError::Field`] naming the first bad field.
    pub fn validate(&self) -> Result<()> {
        self.arrivals.validate()?;
        self.lengths.validate()
    }

    /// Generates a workload. More requests from the same seeds begin with the same requests.
    ///
    /// # Errors
    /// [`SimError::Field`] for a bad field of the generator or of `draw`.
    pub fn generate(&self, draw: &Draw) -> Result<Workload> {
        self.validate()?;
        if draw.requests == 0 {
            return Err(SimError::field("requests", 0, "at least 1"));
        }
        if !draw.rate.is_finite() || draw.rate <= 0.0 {
            return Err(SimError::field("rate", draw.rate, "a finite number of requests per second above 0"));
        }
        let mut columns =
            self.lengths.draw(draw.requests, &mut generator(draw.length_seed, Purpose::Lengths));
        let mut arrivals = generator(draw.arrival_seed, Purpose::Arrivals);
        columns.arrival = match &self.lengths {
            LengthSpec::Chats(chats) => {
                columns.prefix = Some(chats.prefix(&columns));
                let sample = self.lengths.draw(POPULATION, &mut generator(0, Purpose::Population));
                let turns = POPULATION as f64 / chats::conversations(&sample) as f64;
                let starts =
                    self.arrivals.draw(chats::conversations(&columns), draw.rate / turns, &mut arrivals)?;
                chats::arrivals(&columns, &starts)
            }
            _ => self.arrivals.draw(draw.requests, draw.rate, &mut arrivals)?,
        };
        Workload::new(columns)
    }

    /// A large sample of the output lengths, the same for every run: the population that a predictor may have been trained
    /// on.
    ///
    /// # Errors
    /// [`SimError::Field`] for a bad field of the generator.
    pub fn output_population(&self) -> Result<Vec<u32>> {
        self.validate()?;
        Ok(self.lengths.draw(POPULATION, &mut generator(0, Purpose::Population)).output_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(requests: usize) -> Draw {
        Draw { requests, rate: 20.0, arrival_seed: 1, length_seed: 2 }
    }

    fn spec() -> GeneratorSpec {
        GeneratorSpec::from_json(
            r#"{"arrivals": {"kind": "poisson"}, "lengths": {"kind": "paper-five-task"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn arrivals_and_lengths_have_seeds_of_their_own() {
        let one = spec().generate(&draw(100)).unwrap();
        assert_eq!(one, spec().generate(&draw(100)).unwrap());
        let other = spec().generate(&Draw { arrival_seed: 3, ..draw(100) }).unwrap();
        assert_ne!(one.arrival(), other.arrival());
        assert_eq!(one.output_tokens(), other.output_tokens());
        let other = spec().generate(&Draw { length_seed: 3, ..draw(100) }).unwrap();
        assert_eq!(one.arrival(), other.arrival());
        assert_ne!(one.output_tokens(), other.output_tokens());
    }

    #[test]
    fn more_requests_begin_with_the_same_requests() {
        let long = spec().generate(&draw(200)).unwrap();
        assert_eq!(long.slice(0..100).unwrap(), spec().generate(&draw(100)).unwrap());
    }

    #[test]
    fn every_bad_field_is_named() {
        let message = |text: &str| GeneratorSpec::from_json(text).unwrap_err().to_string();
        let cases = [
            (r#"{"kind": "poison"}"#, "unknown variant `poison`"),
            (r#"{"kind": "poisson", "cv": 2}"#, "unknown field `cv`"),
            (r#"{"kind": "gamma"}"#, "missing field `cv`"),
            (r#"{"kind": "gamma", "cv": 0}"#, "`arrivals.cv` is 0, expected"),
            (r#"{"kind": "rate-profile", "window_s": 60, "rates": []}"#, "`arrivals.rates` is [], expected"),
            (
                r#"{"kind": "rate-profile", "window_s": 0, "rates": [1]}"#,
                "`arrivals.window_s` is 0, expected",
            ),
        ];
        for (arrivals, expected) in cases {
            let text = format!(r#"{{"arrivals": {arrivals}, "lengths": {{"kind": "azure-conv-like"}}}}"#);
            assert!(message(&text).contains(expected), "{}", message(&text));
        }
        let task = |task: &str| {
            message(&format!(
                r#"{{"arrivals": {{"kind": "uniform"}}, "lengths": {{"kind": "tasks", "tasks": [{task}]}}}}"#
            ))
        };
        let length = r#"{"mean": 100, "sigma": 0.5, "most": 1000}"#;
        assert!(
            task(&format!(r#"{{"name": "a", "weight": -1, "prompt": {length}, "output": {length}}}"#))
                .starts_with("`lengths.tasks[0].weight` is -1, expected")
        );
        let bad = r#"{"mean": 0.5, "sigma": 0.5, "most": 1000}"#;
        assert!(
            task(&format!(r#"{{"name": "a", "weight": 1, "prompt": {length}, "output": {bad}}}"#))
                .starts_with("`lengths.tasks[0].output.mean` is 0.5, expected")
        );
        assert!(spec().generate(&Draw { rate: f64::NAN, ..draw(1) }).is_err());
        assert!(spec().generate(&draw(0)).is_err());
    }
}
