//! Conversations: several turns that each repeat what was said before.

use irouter_core::Picos;
use irouter_core::hash::mix;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::lengths::LogNormalSpec;
use crate::error::{Result, SimError};
use crate::random::{exponential, standard_normal, uniform};
use crate::workload::WorkloadColumns;
use crate::workload::prefix::PrefixColumn;

/// Tokens per prefix hash: one block of vLLM's default size.
const HASH_BLOCK_TOKENS: u32 = 16;
/// What the blocks of the system prompt are named after, in place of a conversation.
const SYSTEM_PROMPT: u64 = u64::MAX;
const MOST_THINK_SECONDS: f64 = 86_400.0;

/// Conversations. The prompt of a turn is the system prompt, every message and answer before it, and a new message; the next
/// turn arrives when the answer has ended and the user has thought.
///
/// A conversation ends early when its next turn might not fit `context_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatSpec {
    /// How many turns a conversation has.
    pub turns: TurnSpec,
    /// Tokens that every prompt begins with, the same in all conversations.
    pub system_prompt_tokens: u32,
    /// What the user writes in a turn.
    pub message: LogNormalSpec,
    /// Output lengths; their `most` is the requests' `max_tokens`.
    pub answer: LogNormalSpec,
    /// Mean seconds between an answer and the next turn; exponential.
    pub think_time_s: f64,
    /// Most tokens of a turn's prompt and the longest answer to it.
    pub context_tokens: u32,
}

/// Turns of a conversation: geometric, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnSpec {
    /// Mean before the cap, at least 1.
    pub mean: f64,
    /// Most turns.
    pub most: u32,
}

impl TurnSpec {
    /// The number of turns at a uniform draw.
    fn at(self, uniform: f64) -> u32 {
        let stay = 1.0 - 1.0 / self.mean;
        if stay <= 0.0 {
            return 1;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
        let further = libm::floor(libm::log(uniform) / libm::log(stay)) as u32;
        further.saturating_add(1).min(self.most)
    }
}

impl ChatSpec {
    pub(super) fn validate(&self, path: &str) -> Result<()> {
        if !self.turns.mean.is_finite() || self.turns.mean < 1.0 {
            let expected = "a finite number, at least 1";
            return Err(SimError::field(format!("{path}.turns.mean"), self.turns.mean, expected));
        }
        if self.turns.most == 0 {
            return Err(SimError::field(format!("{path}.turns.most"), 0, "at least 1"));
        }
        self.message.validate(&format!("{path}.message"))?;
        self.answer.validate(&format!("{path}.answer"))?;
        if !(0.0..=MOST_THINK_SECONDS).contains(&self.think_time_s) {
            let expected = format!("a number of seconds from 0 to {MOST_THINK_SECONDS}");
            return Err(SimError::field(format!("{path}.think_time_s"), self.think_time_s, expected));
        }
        let parts = [self.system_prompt_tokens, self.message.most, self.answer.most].map(u64::from);
        let first_turn: u64 = parts.iter().sum();
        if u64::from(self.context_tokens) < first_turn {
            let expected = format!("at least {first_turn}, which a first turn may take");
            return Err(SimError::field(format!("{path}.context_tokens"), self.context_tokens, expected));
        }
        Ok(())
    }

    /// Draws the turns of as many conversations as hold `requests` of them, the last one cut where they are reached; neither
    /// arrivals nor prefixes.
    pub(super) fn draw(&self, requests: usize, generator: &mut ChaCha8Rng) -> WorkloadColumns {
        let mut columns = WorkloadColumns::default();
        let (mut sessions, mut think_times) = (Vec::with_capacity(requests), Vec::with_capacity(requests));
        for session in 0.. {
            let turns = self.turns.at(uniform(generator));
            let mut said = self.system_prompt_tokens;
            for _ in 0..turns {
                if sessions.len() == requests {
                    columns.max_tokens = Some(vec![self.answer.most; requests]);
                    return WorkloadColumns {
                        session: Some(sessions),
                        think_time: Some(think_times),
                        ..columns
                    };
                }
                let prompt = said.saturating_add(self.message.at(standard_normal(generator)));
                let answer = self.answer.at(standard_normal(generator));
                let pause = Picos::from_seconds(self.think_time_s * exponential(generator));
                if prompt.saturating_add(self.answer.most) > self.context_tokens {
                    break;
                }
                columns.prompt_tokens.push(prompt);
                columns.output_tokens.push(answer);
                sessions.push(session);
                think_times.push(pause.unwrap_or(Picos::MAX));
                said = prompt + answer;
            }
        }
        columns
    }

    /// Hashes of the turns' full blocks: a block is named by the conversation and its position in it, and those within the
    /// system prompt by their position alone.
    pub(super) fn prefix(&self, columns: &WorkloadColumns) -> PrefixColumn {
        let common = self.system_prompt_tokens / HASH_BLOCK_TOKENS;
        let (mut offsets, mut hashes) = (vec![0], Vec::new());
        for (&prompt, &session) in columns.prompt_tokens.iter().zip(columns.session.iter().flatten()) {
            let name =
                |block: u32| mix(mix(if block < common { SYSTEM_PROMPT } else { session }, 0), block.into());
            hashes.extend((0..prompt / HASH_BLOCK_TOKENS).map(name));
            offsets.push(hashes.len());
        }
        PrefixColumn { hash_block_tokens: HASH_BLOCK_TOKENS, offsets, hashes }
    }
}

/// Conversations that [`ChatSpec::draw`] has drawn.
pub(super) fn conversations(columns: &WorkloadColumns) -> usize {
    let last = columns.session.iter().flatten().next_back();
    last.map_or(0, |&session| usize::try_from(session).unwrap_or(usize::MAX) + 1)
}

/// The start of each turn's conversation.
pub(super) fn arrivals(columns: &WorkloadColumns, starts: &[Picos]) -> Vec<Picos> {
    let start = |&session: &u64| starts[usize::try_from(session).unwrap_or(usize::MAX)];
    columns.session.iter().flatten().map(start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{ArrivalSpec, Draw, GeneratorSpec, LengthSpec, Workload};

    fn chats() -> ChatSpec {
        ChatSpec {
            turns: TurnSpec { mean: 4.0, most: 20 },
            system_prompt_tokens: 100,
            message: LogNormalSpec { mean: 60.0, sigma: 1.0, most: 1000 },
            answer: LogNormalSpec { mean: 200.0, sigma: 0.8, most: 900 },
            think_time_s: 10.0,
            context_tokens: 4000,
        }
    }

    fn generated(spec: ChatSpec, requests: usize) -> Workload {
        let generator = GeneratorSpec { arrivals: ArrivalSpec::Poisson {}, lengths: LengthSpec::Chats(spec) };
        generator.generate(&Draw { requests, rate: 8.0, arrival_seed: 1, length_seed: 2 }).unwrap()
    }

    #[test]
    fn a_turn_repeats_all_that_was_said_and_shares_its_blocks() {
        let workload = generated(chats(), 3000);
        let columns = workload.columns();
        let (sessions, prefix) = (columns.session.as_ref().unwrap(), columns.prefix.as_ref().unwrap());
        let mut follow_ups = 0;
        for row in 1..workload.len() {
            let (before, now) = (prefix.row(row - 1), prefix.row(row));
            if sessions[row] == sessions[row - 1] {
                follow_ups += 1;
                let said = columns.prompt_tokens[row - 1] + columns.output_tokens[row - 1];
                assert!(columns.prompt_tokens[row] > said);
                assert_eq!(now[..before.len()], *before);
                assert_eq!(columns.arrival[row], columns.arrival[row - 1]);
            } else {
                // Six blocks lie within the 100 tokens of the system prompt; the seventh does not.
                let shared = now.iter().zip(before).take_while(|(one, other)| one == other).count();
                assert_eq!(shared, 6.min(now.len()).min(before.len()));
            }
            assert!(columns.prompt_tokens[row] + 900 <= 4000);
        }
        assert!(follow_ups > 1500);
    }

    #[test]
    fn requests_come_at_the_rate_asked_for_and_users_think_as_long() {
        let workload = generated(chats(), 40_000);
        assert!((workload.rate().unwrap() / 8.0 - 1.0).abs() < 0.03, "{:?}", workload.rate());
        let pauses = workload.columns().think_time.as_ref().unwrap();
        let mean = pauses.iter().map(|pause| pause.as_seconds()).sum::<f64>() / pauses.len() as f64;
        assert!((mean / 10.0 - 1.0).abs() < 0.02, "{mean}");
    }

    #[test]
    fn turns_are_geometric_up_to_their_cap() {
        let turns = TurnSpec { mean: 4.0, most: 20 };
        let counts: Vec<f64> =
            (0..10_000).map(|draw| f64::from(turns.at((f64::from(draw) + 0.5) / 1e4))).collect();
        // Mean of a geometric number of mean 4, cut at 20: 4 (1 - 0.75^20).
        let mean = counts.iter().sum::<f64>() / 1e4;
        assert!((mean - 4.0 * (1.0 - 0.75_f64.powi(20))).abs() < 0.01, "{mean}");
        assert_eq!((TurnSpec { mean: 1.0, most: 9 }).at(0.001), 1);
    }

    #[test]
    fn more_turns_begin_with_the_same_turns() {
        let long = generated(chats(), 900);
        assert_eq!(long.slice(0..350).unwrap(), generated(chats(), 350));
    }

    #[test]
    fn every_bad_field_is_named() {
        let message = |change: &dyn Fn(&mut ChatSpec)| {
            let mut spec = chats();
            change(&mut spec);
            spec.validate("lengths").unwrap_err().to_string()
        };
        assert_eq!(
            message(&|spec| spec.context_tokens = 1999),
            "`lengths.context_tokens` is 1999, expected at least 2000, which a first turn may take"
        );
        assert_eq!(message(&|spec| spec.turns.most = 0), "`lengths.turns.most` is 0, expected at least 1");
        assert!(message(&|spec| spec.turns.mean = 0.5).starts_with("`lengths.turns.mean` is 0.5, expected"));
        assert!(message(&|spec| spec.think_time_s = -1.0).starts_with("`lengths.think_time_s` is -1,"));
        assert!(message(&|spec| spec.answer.sigma = 9.0).starts_with("`lengths.answer.sigma` is 9,"));
    }
}
