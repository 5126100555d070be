//! Many environments, stepped together.

use std::sync::Arc;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::observation::Observation;
use super::single::{Environment, Shared, Transition};
use super::spec::EnvironmentSpec;
use crate::error::{Result, SimError};
use crate::experiment::Experiment;
use crate::workload::Workload;

/// Environments of one kind. One whose episode is over begins the next one at the following step, whose action it ignores.
///
/// Environment `i` of `n` runs the seeds `s_i`, `s_i + n`, `s_i + 2 n` and so on, where `s_i` is its own at the last reset.
pub struct VectorEnvironment {
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    /// `None` where the caller's thread does it all.
    pool: Option<ThreadPool>,
}

struct Slot {
    environment: Option<Environment>,
    next_seed: u64,
}

/// What one step of all environments gives, row `i` of each column from environment `i`.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What each agent is shown: a row of numbers per environment.
    pub observations: Vec<f32>,
    /// Which actions are open: a row per environment.
    pub open: Vec<bool>,
    /// Rewards, terms and ends of the step before; of a reset all zero.
    pub transitions: Vec<Transition>,
}

impl VectorEnvironment {
    /// `environments` of them, on `threads` threads (0: one per core). The first step is a reset.
    ///
    /// # Errors
    /// Those of the experiment and of the specification.
    pub fn new(
        experiment: &Experiment,
        trace: Option<&Workload>,
        spec: EnvironmentSpec,
        environments: usize,
        threads: usize,
    ) -> Result<Self> {
        if environments == 0 {
            return Err(SimError::field("environments", 0, "at least 1"));
        }
        let pool = (threads != 1 && environments > 1)
            .then(|| ThreadPoolBuilder::new().num_threads(threads).build())
            .transpose()
            .map_err(|error| SimError::field("threads", threads, error.to_string()))?;
        let slots = (0..environments as u64).map(|seed| Slot { environment: None, next_seed: seed });
        Ok(Self { shared: Arc::new(Shared::new(experiment, trace, spec)?), slots: slots.collect(), pool })
    }

    /// How many environments there are.
    pub fn environments(&self) -> usize {
        self.slots.len()
    }

    /// How many actions an agent has: each candidate on each instance (candidate by candidate), and hold, the last.
    pub fn actions(&self) -> usize {
        self.shared.actions()
    }

    /// What an agent is shown.
    pub fn observation(&self) -> &dyn Observation {
        self.shared.observation.as_ref()
    }

    /// Begins an episode in every environment: of its seed, or of the one that is next.
    ///
    /// # Errors
    /// [`SimError::Field`] unless there is a seed for each, and those of the simulator.
    pub fn reset(&mut self, seeds: Option<&[u64]>) -> Result<Batch> {
        if let Some(seeds) = seeds {
            self.check_length("seeds", seeds.len())?;
            for (slot, &seed) in self.slots.iter_mut().zip(seeds) {
                slot.next_seed = seed;
            }
        }
        let ignored = vec![0; self.slots.len()];
        self.each(&ignored, |slot, _, shared, stride| slot.begin(shared, stride))
    }

    /// Carries out an action in every environment. `guidance_weight` is that of the reward's term (c).
    ///
    /// # Errors
    /// [`SimError::Field`] unless there is an action for each, for a number that names none, and before the first reset;
    /// those of the simulator.
    pub fn step(&mut self, actions: &[i64], guidance_weight: f64) -> Result<Batch> {
        self.check_length("actions", actions.len())?;
        self.each(actions, |slot, action, shared, stride| match &mut slot.environment {
            None => Err(SimError::field("step", "called first", "a reset before it")),
            Some(environment) if environment.is_over() => slot.begin(shared, stride),
            Some(environment) => {
                let action = usize::try_from(action)
                    .map_err(|_| SimError::field("action", action, "the number of an action"))?;
                environment.step(action, guidance_weight)
            }
        })
    }

    fn check_length(&self, field: &str, found: usize) -> Result<()> {
        if found == self.slots.len() {
            return Ok(());
        }
        Err(SimError::field(field, format!("{found} long"), format!("one for each of {}", self.slots.len())))
    }

    /// Does the same in every environment, and writes down what each agent is shown.
    fn each(
        &mut self,
        actions: &[i64],
        work: impl Fn(&mut Slot, i64, &Arc<Shared>, u64) -> Result<Transition> + Sync,
    ) -> Result<Batch> {
        let (count, width) = (self.slots.len(), self.shared.observation.width());
        let mut batch = Batch {
            observations: vec![0.0; count * width],
            open: vec![false; count * self.shared.actions()],
            transitions: vec![Transition::default(); count],
        };
        let (shared, slots) = (&self.shared, &mut self.slots);
        let one = |slot: &mut Slot, action, numbers: &mut [f32], open: &mut [bool], transition: &mut _| {
            *transition = work(slot, action, shared, count as u64)?;
            slot.environment.as_mut().map_or(Ok(()), |environment| environment.observe(numbers, open))
        };
        match &self.pool {
            None => {
                let rows = slots.iter_mut().zip(actions).zip(batch.observations.chunks_exact_mut(width));
                let rows =
                    rows.zip(batch.open.chunks_exact_mut(shared.actions())).zip(&mut batch.transitions);
                for ((((slot, &action), numbers), open), transition) in rows {
                    one(slot, action, numbers, open, transition)?;
                }
            }
            Some(pool) => pool.install(|| {
                let rows =
                    slots.par_iter_mut().zip(actions).zip(batch.observations.par_chunks_exact_mut(width));
                let rows =
                    rows.zip(batch.open.par_chunks_exact_mut(shared.actions())).zip(&mut batch.transitions);
                rows.try_for_each(|((((slot, &action), numbers), open), transition)| {
                    one(slot, action, numbers, open, transition)
                })
            })?,
        }
        Ok(batch)
    }
}

impl Slot {
    fn begin(&mut self, shared: &Arc<Shared>, stride: u64) -> Result<Transition> {
        self.environment = Some(Environment::new(shared, self.next_seed)?);
        self.next_seed = self.next_seed.wrapping_add(stride);
        Ok(Transition::default())
    }
}
