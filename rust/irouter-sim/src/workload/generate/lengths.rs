//! Length models.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::chats::ChatSpec;
use super::tables::{AZURE_CONVERSATION_INPUT, AZURE_CONVERSATION_OUTPUT, QuantileTable, paper_five_tasks};
use crate::error::{Result, SimError};
use crate::random::{standard_normal, uniform};
use crate::workload::WorkloadColumns;

/// How long prompts and outputs are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LengthSpec {
    /// The five tasks of the paper's Table 1.
    PaperFiveTask {},
    /// Quantiles of the Azure conversation trace of 2023, input and output drawn independently (they are all but
    /// uncorrelated there).
    AzureConvLike {},
    /// A mix of tasks; the `application` of a request is the position of its task.
    Tasks {
        /// The tasks.
        tasks: Vec<TaskSpec>,
    },
    /// All requests alike.
    Constant {
        /// Tokens of every prompt.
        prompt_tokens: u32,
        /// Tokens of every output.
        output_tokens: u32,
    },
    /// Conversations of several turns: each turn's prompt repeats all that was said before it.
    Chats(ChatSpec),
}

/// One task of a mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Name, for reports.
    pub name: String,
    /// Relative frequency.
    pub weight: f64,
    /// Prompt lengths.
    pub prompt: LogNormalSpec,
    /// Output lengths; their `most` is the requests' `max_tokens`.
    pub output: LogNormalSpec,
}

/// Log-normal lengths in tokens, at least 1 and at most `most`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogNormalSpec {
    /// Mean before the cap.
    pub mean: f64,
    /// Standard deviation of the logarithm.
    pub sigma: f64,
    /// Longer draws are cut here.
    pub most: u32,
}

impl LengthSpec {
    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Self::PaperFiveTask {} | Self::AzureConvLike {} => Ok(()),
            Self::Constant { prompt_tokens, output_tokens } => {
                for (field, tokens) in [("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)] {
                    if *tokens == 0 {
                        return Err(SimError::field(format!("lengths.{field}"), 0, "at least 1 token"));
                    }
                }
                Ok(())
            }
            Self::Chats(chats) => chats.validate("lengths"),
            Self::Tasks { tasks } => {
                for (index, task) in tasks.iter().enumerate() {
                    task.validate(&format!("lengths.tasks[{index}]"))?;
                }
                if tasks.iter().map(|task| task.weight).sum::<f64>() > 0.0 {
                    return Ok(());
                }
                let value = format!("{} tasks without weight", tasks.len());
                Err(SimError::field("lengths.tasks", value, "at least one with a weight above 0"))
            }
        }
    }

    /// Draws lengths of `requests` requests; the arrivals are left empty.
    pub(super) fn draw(&self, requests: usize, generator: &mut ChaCha8Rng) -> WorkloadColumns {
        match self {
            Self::PaperFiveTask {} => draw_tasks(&paper_five_tasks(), requests, generator),
            Self::Tasks { tasks } => draw_tasks(tasks, requests, generator),
            Self::Chats(chats) => chats.draw(requests, generator),
            Self::AzureConvLike {} => {
                let mut columns = WorkloadColumns::default();
                for _ in 0..requests {
                    columns.prompt_tokens.push(draw_table(&AZURE_CONVERSATION_INPUT, generator));
                    columns.output_tokens.push(draw_table(&AZURE_CONVERSATION_OUTPUT, generator));
                }
                columns
            }
            Self::Constant { prompt_tokens, output_tokens } => WorkloadColumns {
                prompt_tokens: vec![*prompt_tokens; requests],
                output_tokens: vec![*output_tokens; requests],
                ..WorkloadColumns::default()
            },
        }
    }
}

impl TaskSpec {
    fn validate(&self, path: &str) -> Result<()> {
        if !self.weight.is_finite() || self.weight < 0.0 {
            let expected = "a finite number, at least 0";
            return Err(SimError::field(format!("{path}.weight"), self.weight, expected));
        }
        self.prompt.validate(&format!("{path}.prompt"))?;
        self.output.validate(&format!("{path}.output"))
    }
}

impl LogNormalSpec {
    pub(super) fn validate(&self, path: &str) -> Result<()> {
        if !self.mean.is_finite() || self.mean < 1.0 {
            let expected = "a finite number of tokens, at least 1";
            return Err(SimError::field(format!("{path}.mean"), self.mean, expected));
        }
        if !(0.0..=5.0).contains(&self.sigma) {
            return Err(SimError::field(format!("{path}.sigma"), self.sigma, "a number from 0 to 5"));
        }
        if self.most == 0 {
            return Err(SimError::field(format!("{path}.most"), 0, "at least 1 token"));
        }
        Ok(())
    }

    /// The length at a standard normal draw.
    pub(super) fn at(&self, normal: f64) -> u32 {
        let median = libm::log(self.mean) - self.sigma * self.sigma / 2.0;
        whole_tokens(libm::exp(self.sigma.mul_add(normal, median)).min(f64::from(self.most)))
    }
}

fn draw_tasks(tasks: &[TaskSpec], requests: usize, generator: &mut ChaCha8Rng) -> WorkloadColumns {
    let total: f64 = tasks.iter().map(|task| task.weight).sum();
    let mut columns = WorkloadColumns::default();
    let (mut application, mut max_tokens) = (Vec::with_capacity(requests), Vec::with_capacity(requests));
    for _ in 0..requests {
        let mut left = uniform(generator) * total;
        let chosen = tasks.iter().position(|task| {
            left -= task.weight;
            left < 0.0
        });
        // Rounding may leave a trifle of weight beyond the last task.
        let chosen = chosen.unwrap_or(tasks.len() - 1);
        let task = &tasks[chosen];
        #[expect(clippy::cast_possible_truncation, reason = "a mix has few tasks")]
        application.push(chosen as u32);
        columns.prompt_tokens.push(task.prompt.at(standard_normal(generator)));
        columns.output_tokens.push(task.output.at(standard_normal(generator)));
        max_tokens.push(task.output.most);
    }
    WorkloadColumns { application: Some(application), max_tokens: Some(max_tokens), ..columns }
}

fn draw_table(table: &QuantileTable, generator: &mut ChaCha8Rng) -> u32 {
    let level = uniform(generator);
    let above = table.partition_point(|&(knot, _)| knot <= level).clamp(1, table.len() - 1);
    let ((low, from), (high, to)) = (table[above - 1], table[above]);
    whole_tokens(f64::from(from) + (level - low) / (high - low) * (f64::from(to) - f64::from(from)))
}

fn whole_tokens(tokens: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and lengths are positive"
    )]
    {
        (libm::round(tokens) as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, generator};

    const DRAWS: usize = 200_000;

    fn drawn(spec: &LengthSpec) -> WorkloadColumns {
        spec.draw(DRAWS, &mut generator(3, Purpose::Lengths))
    }

    fn mean(tokens: &[u32]) -> f64 {
        tokens.iter().map(|&tokens| f64::from(tokens)).sum::<f64>() / tokens.len() as f64
    }

    /// Mean of a capped log-normal length.
    fn capped_mean(spec: &LogNormalSpec) -> f64 {
        let phi = |z: f64| 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2);
        let median = spec.mean.ln() - spec.sigma * spec.sigma / 2.0;
        let distance = (f64::from(spec.most).ln() - median) / spec.sigma;
        spec.mean * phi(distance - spec.sigma) + f64::from(spec.most) * phi(-distance)
    }

    #[test]
    fn the_five_tasks_have_the_papers_means_and_heavy_shares() {
        // Table 1: share of the samples, mean prompt, mean output, share of outputs above 140 tokens.
        const TABLE: [(f64, f64, f64, f64); 5] = [
            (7351.0, 29.09, 61.76, 0.0918),
            (6988.0, 29.83, 334.40, 0.5818),
            (6564.0, 211.54, 142.53, 0.4101),
            (7122.0, 125.16, 220.02, 0.4795),
            (3304.0, 26.41, 64.10, 0.0871),
        ];
        let columns = drawn(&LengthSpec::PaperFiveTask {});
        let application = columns.application.unwrap();
        for (task, (index, (samples, prompt, output, heavy))) in
            paper_five_tasks().iter().zip((0..).zip(TABLE))
        {
            let rows: Vec<usize> = (0..DRAWS).filter(|&row| application[row] == index).collect();
            let of = |column: &[u32]| rows.iter().map(|&row| column[row]).collect::<Vec<_>>();
            let (prompts, outputs) = (of(&columns.prompt_tokens), of(&columns.output_tokens));
            let count = rows.len() as f64;
            assert!((count / DRAWS as f64 - samples / 31_329.0).abs() < 0.003);
            assert!((task.prompt.mean - prompt).abs() < 1e-9 && (task.output.mean - output).abs() < 1e-9);
            // Where the cap takes nothing, this is the table's mean.
            assert!((mean(&prompts) / capped_mean(&task.prompt) - 1.0).abs() < 0.015, "{task:?}");
            assert!((mean(&outputs) / capped_mean(&task.output) - 1.0).abs() < 0.02, "{task:?}");
            assert!((mean(&prompts) / prompt - 1.0).abs() < 0.015, "{task:?}");
            let above = outputs.iter().filter(|&&tokens| tokens > 140).count() as f64;
            assert!((above / count - heavy).abs() < 0.01, "{task:?}: {}", above / count);
            assert!(outputs.iter().all(|tokens| (1..=1024).contains(tokens)));
            assert!(prompts.iter().all(|tokens| (1..=1000).contains(tokens)));
        }
    }

    #[test]
    fn azure_like_lengths_have_the_traces_means_and_medians() {
        let columns = drawn(&LengthSpec::AzureConvLike {});
        for (mut tokens, expected_mean, median) in
            [(columns.prompt_tokens, 1154.7, 1020), (columns.output_tokens, 211.1, 129)]
        {
            assert!((mean(&tokens) / expected_mean - 1.0).abs() < 0.015, "{}", mean(&tokens));
            tokens.sort_unstable();
            assert!(tokens[DRAWS / 2].abs_diff(median) <= 2, "{}", tokens[DRAWS / 2]);
        }
    }

    #[test]
    fn constant_lengths_are_constant() {
        let columns = drawn(&LengthSpec::Constant { prompt_tokens: 7, output_tokens: 9 });
        assert_eq!((columns.prompt_tokens, columns.output_tokens), (vec![7; DRAWS], vec![9; DRAWS]));
    }

    #[test]
    fn a_task_without_weight_is_never_drawn() {
        let length = LogNormalSpec { mean: 100.0, sigma: 1.0, most: 500 };
        let task = |weight| TaskSpec { name: "t".into(), weight, prompt: length, output: length };
        let spec = LengthSpec::Tasks { tasks: vec![task(1.0), task(0.0), task(3.0)] };
        spec.validate().unwrap();
        let columns = drawn(&spec);
        let mut counts = [0; 3];
        for application in columns.application.unwrap() {
            counts[application as usize] += 1;
        }
        assert!(counts[1] == 0 && (f64::from(counts[0]) / DRAWS as f64 - 0.25).abs() < 0.005, "{counts:?}");
        assert!(columns.max_tokens.unwrap().iter().all(|&tokens| tokens == 500));
        assert!(LengthSpec::Tasks { tasks: vec![] }.validate().is_err());
    }
}
