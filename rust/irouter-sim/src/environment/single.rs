//! One environment: an episode after another, a decision after another.

use std::sync::Arc;

use irouter_core::Picos;
use irouter_core::impact::Linear;

use super::agent::{Agent, SharedEncoder, Timer};
use super::guidance::gap;
use super::observation::Observation;
use super::reward::Reward;
use super::spec::EnvironmentSpec;
use crate::error::{Result, SimError};
use crate::experiment::{Episode, Experiment, Prepared};
use crate::simulator::Simulator;
use crate::workload::Workload;

/// What environments of one kind share.
pub(super) struct Shared {
    prepared: Prepared,
    spec: EnvironmentSpec,
    pub(super) timer: Timer,
    pub(super) observation: Box<dyn Observation>,
}

impl Shared {
    pub(super) fn new(
        experiment: &Experiment,
        trace: Option<&Workload>,
        spec: EnvironmentSpec,
    ) -> Result<Self> {
        spec.validate()?;
        Ok(Self {
            observation: spec.observation.build(experiment.instances, experiment.profile.max_model_len)?,
            timer: spec.timer()?,
            prepared: Prepared::new(experiment, trace)?,
            spec,
        })
    }

    /// How many actions there are: each candidate on each instance, and hold.
    pub(super) fn actions(&self) -> usize {
        self.observation.candidates() * self.observation.instances() + 1
    }

    /// The places of the candidate and of the instance that an action names; `None` for hold, the last.
    fn placement(&self, action: usize) -> Option<(usize, usize)> {
        let instances = self.observation.instances();
        (action + 1 < self.actions()).then_some((action / instances, action % instances))
    }
}

/// What came of an action.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Transition {
    /// The terms (a) and (b) of the reward, and (c) times its weight.
    pub reward: f64,
    /// The terms: cost of the requests in the system, completions, and by how much worse the chosen instance was than the
    /// one with the least latency impact (0 for a hold).
    pub terms: [f64; 3],
    /// Seconds until the decision that follows.
    pub elapsed_s: f64,
    /// Whether the action was not open, and counted as a hold.
    pub excluded: bool,
    /// Whether every request has ended.
    pub terminated: bool,
    /// Whether the episode was cut off.
    pub truncated: bool,
}

/// A cluster that waits for an agent's decision.
pub struct Environment {
    shared: Arc<Shared>,
    simulator: Simulator,
    reward: Reward,
    encoder: SharedEncoder,
    /// By the first instance's engine; all are alike.
    linear: Option<Linear>,
    /// When it was decided last.
    decided: Option<Picos>,
    decisions: u64,
    over: bool,
}

impl Environment {
    /// The episode of a seed, at its first decision.
    pub(super) fn new(shared: &Arc<Shared>, seed: u64) -> Result<Self> {
        let Episode { config, workload, predictions, unloaded } = shared.prepared.episode(seed)?;
        let encoder = SharedEncoder::new(shared.observation.encoder());
        let policy = Agent { shared: Arc::clone(shared), encoder: encoder.clone() };
        let mut simulator = Simulator::new(config, Box::new(policy), workload, predictions)?;
        let reward = Reward::new(shared.spec.reward, &mut simulator, &unloaded);
        let first = simulator.look()?.cluster.instances.first();
        let linear = first.map(|instance| Linear::new(instance.config()));
        let shared = Arc::clone(shared);
        let mut environment =
            Self { shared, simulator, reward, encoder, linear, decided: None, decisions: 0, over: false };
        environment.over = !environment.next_decision()?;
        environment.decided = Some(environment.simulator.now());
        Ok(environment)
    }

    /// Whether its episode is over.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Carries out an action, and goes on to the next decision. An action that is not open counts as a hold.
    ///
    /// # Errors
    /// [`SimError::Field`] for a number that names no action and for an episode that is over, and those of the simulator.
    pub fn step(&mut self, action: usize, guidance_weight: f64) -> Result<Transition> {
        if self.over {
            return Err(SimError::field("action", action, "a reset, since the episode is over"));
        }
        if action >= self.shared.actions() {
            let last = self.shared.actions() - 1;
            return Err(SimError::field(
                "action",
                action,
                format!("a number from 0 to {last}, which is hold"),
            ));
        }
        let before = self.simulator.now();
        let placement = self.shared.placement(action);
        let gap = placement.map(|(candidate, instance)| self.place(candidate, instance)).transpose()?;
        let sent = matches!(gap, Some(Some(_)));
        self.decisions += 1;
        let asks_again = sent && matches!(self.shared.timer, Timer::After(_)) && self.simulator.waiting() > 0;
        let terminated = !asks_again && {
            self.simulator.decide()?;
            !self.next_decision()?
        };
        let truncated =
            !terminated && self.shared.spec.max_decisions.is_some_and(|most| self.decisions >= most);
        self.over = terminated || truncated;
        self.decided = Some(self.simulator.now());
        let [cost, completions] = self.reward.since(&mut self.simulator)?;
        let gap = gap.flatten().unwrap_or(0.0);
        Ok(Transition {
            reward: guidance_weight.mul_add(gap, cost + completions),
            terms: [cost, completions, gap],
            elapsed_s: (self.simulator.now() - before).as_seconds(),
            excluded: placement.is_some() && !sent,
            terminated,
            truncated,
        })
    }

    /// Writes what the agent is shown and which actions are open: as many places as there are numbers and actions.
    ///
    /// # Errors
    /// Those of the engine model.
    pub fn observe(&mut self, numbers: &mut [f32], open: &mut [bool]) -> Result<()> {
        let look = self.simulator.look()?;
        let observation = &self.shared.observation;
        let mut encoder = self.encoder.get();
        encoder.encode(&look.cluster, &look.queue, numbers);
        open.fill(false);
        let candidates = (0..).map_while(|candidate| encoder.request(&look.queue, candidate));
        for (waiting, open) in candidates.zip(open.chunks_exact_mut(observation.instances())) {
            let instances = (0..).map_while(|place| encoder.instance(place));
            for (instance, open) in instances.zip(open) {
                *open = observation.takes(&look.cluster, instance, waiting.request);
            }
        }
        if let Some(hold) = open.last_mut() {
            *hold = true;
        }
        Ok(())
    }

    /// Sends a candidate to an instance, both by their places in what the agent was shown last. Returns how much worse that is
    /// than the instance with the least impact; `None` when it is not open.
    fn place(&mut self, candidate: usize, place: usize) -> Result<Option<f64>> {
        let look = self.simulator.look()?;
        let (waiting, instance) = {
            let encoder = self.encoder.get();
            let waiting = encoder.request(&look.queue, candidate);
            let (Some(waiting), Some(instance)) = (waiting, encoder.instance(place)) else { return Ok(None) };
            (waiting, instance)
        };
        if !self.shared.observation.takes(&look.cluster, instance, waiting.request) {
            return Ok(None);
        }
        let gap =
            self.linear.as_ref().map_or(0.0, |linear| gap(linear, &look.cluster, waiting.request, instance));
        let key = waiting.key;
        self.simulator.dispatch(key, instance)?;
        Ok(Some(gap))
    }

    /// Runs up to the next decision; false when every request has ended.
    fn next_decision(&mut self) -> Result<bool> {
        while self.simulator.proceed()? {
            if self.simulator.waiting() > 0 && self.is_due() {
                return Ok(true);
            }
            self.simulator.decide()?;
        }
        Ok(false)
    }

    /// Whether the agent is to decide now, if anything waits.
    fn is_due(&self) -> bool {
        let now = self.simulator.now();
        match self.shared.timer {
            Timer::After(_) => true,
            Timer::Tick(tick) => now.0.rem_euclid(tick.0) == 0 && self.decided != Some(now),
        }
    }
}
