//! What goes wrong in a run, and when: aborts, crashes, slow instances, lost events. Drawn from the seed, the same for every
//! policy.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use irouter_core::engine::Executor;
use irouter_core::profile::Scale;
use irouter_core::{Event, Picos};

use crate::error::Result;
use crate::metrics::{Outcome, unloaded};
use crate::random::{Purpose, generator, uniform};
use crate::workload::Workload;

use super::{RunConfig, Simulator, Slow, engine, instance};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disturbance {
    /// The instance breaks.
    Crash(usize),
    /// The router hears that the instance broke.
    CrashKnown(usize),
    /// The instance is back, empty.
    Return(usize),
    /// The pace of the instance changes.
    Pace(usize),
    /// The client of this row goes away.
    Abort(usize),
}

/// Everything that goes wrong in a run.
pub(super) struct Disturbances {
    upcoming: BinaryHeap<Reverse<(Picos, Disturbance)>>,
    /// How long the client of each row stays, where it does not wait for the end.
    patience: Option<Vec<Option<Picos>>>,
    slow: Vec<Slow>,
    leaked: Option<Vec<bool>>,
    up: Vec<bool>,
}

impl Disturbances {
    pub(super) fn new(config: &RunConfig, workload: &Workload) -> Self {
        let mut upcoming = BinaryHeap::new();
        for crash in &config.crashes {
            let index = crash.instance as usize;
            let known = crash.at.saturating_add(config.delays.event);
            let back = crash.back(config.delays.event);
            upcoming.push(Reverse((crash.at, Disturbance::Crash(index))));
            upcoming.push(Reverse((known, Disturbance::CrashKnown(index))));
            upcoming.push(Reverse((back, Disturbance::Return(index))));
        }
        for slow in &config.slow {
            // When the router's knowledge has got there, so that the engine has got there and no further.
            let changes = [Some(slow.at), slow.down.map(|down| slow.at.saturating_add(down))];
            for at in changes.into_iter().flatten() {
                let known = at.saturating_add(config.delays.event);
                upcoming.push(Reverse((known, Disturbance::Pace(slow.instance as usize))));
            }
        }
        let patience = config.aborts.map(|aborts| {
            let mut generator = generator(config.seed, Purpose::Aborts);
            let patience = |row: usize| {
                let (chosen, moment) = (uniform(&mut generator), uniform(&mut generator));
                // Uniform over twice the time that the request takes alone: some leave in the queue, some while it
                // streams, some too late.
                let (prompt, output) = (workload.prompt_tokens()[row], workload.output_tokens()[row]);
                let alone = || unloaded(&config.engine, prompt, output, config.delays.dispatch).e2e;
                (chosen < aborts.share)
                    .then(|| Picos::from_seconds(2.0 * moment * alone().as_seconds()).unwrap_or(Picos::MAX))
            };
            (0..workload.len()).map(patience).collect()
        });
        let leaked = (config.leak_share > 0.0).then(|| {
            let mut generator = generator(config.seed, Purpose::Leaks);
            (0..workload.len()).map(|_| uniform(&mut generator) < config.leak_share).collect()
        });
        Self {
            upcoming,
            patience,
            slow: config.slow.clone(),
            leaked,
            up: vec![true; config.instances as usize],
        }
    }

    /// A row has arrived: its client will stay for as long as it has patience.
    pub(super) fn arrived(&mut self, row: usize, at: Picos) {
        if let Some(patience) = self.patience.as_ref().and_then(|patience| patience[row]) {
            self.upcoming.push(Reverse((at.saturating_add(patience), Disturbance::Abort(row))));
        }
    }

    /// Factor on the step times of an instance at a time of its engine.
    pub(super) fn pace(&self, index: usize, at: Picos) -> Scale {
        let holds = |slow: &&Slow| {
            let end = slow.down.map_or(Picos::MAX, |down| slow.at.saturating_add(down));
            slow.instance as usize == index && (slow.at..end).contains(&at)
        };
        self.slow.iter().filter(holds).fold(Scale::ONE, |pace, slow| pace.times(slow.factor))
    }

    pub(super) fn next(&self) -> Option<Picos> {
        self.upcoming.peek().map(|Reverse((at, _))| *at)
    }

    /// The next disturbance up to `now`, carried out as far as it concerns who is up.
    pub(super) fn pop(&mut self, now: Picos) -> Option<Disturbance> {
        let Reverse((at, _)) = self.upcoming.peek()?;
        if *at > now {
            return None;
        }
        let Reverse((_, disturbance)) = self.upcoming.pop()?;
        match disturbance {
            Disturbance::Crash(index) => self.up[index] = false,
            Disturbance::Return(index) => self.up[index] = true,
            Disturbance::CrashKnown(_) | Disturbance::Pace(_) | Disturbance::Abort(_) => {}
        }
        Some(disturbance)
    }

    pub(super) fn is_up(&self, index: usize) -> bool {
        self.up[index]
    }

    pub(super) fn all_down(&self) -> bool {
        self.up.iter().all(|up| !up)
    }

    /// Whether the router is never told that this row has ended.
    pub(super) fn leaks(&self, row: usize) -> bool {
        self.leaked.as_ref().is_some_and(|leaked| leaked[row])
    }
}

impl Simulator {
    /// Carries out the aborts, crashes and returns that are due.
    pub(super) fn disturb(&mut self) -> Result<()> {
        while let Some(disturbance) = self.disturbances.pop(self.now) {
            match disturbance {
                Disturbance::Abort(row) => self.abort(row)?,
                Disturbance::Crash(index) => {
                    self.advance(index, self.now)?;
                    self.engines[index] = engine(&self.config, self.needs, instance(index).0)?;
                    self.engines[index].set_speed(self.disturbances.pace(index, self.now));
                    self.look_ahead(index);
                    // Tokens up to the crash were streamed; they are told before it.
                    self.tell()?;
                }
                Disturbance::CrashKnown(index) => {
                    for lost in self.router.observe(Event::Left { instance: instance(index) }, self.now)? {
                        let row = usize::try_from(lost).unwrap_or(usize::MAX);
                        self.slots[row] = None;
                        self.recorder.ended(row, self.now, Outcome::Failed);
                        self.arrivals.ended(row, self.now);
                    }
                }
                Disturbance::Pace(index) => {
                    let at = self.now - self.config.delays.event;
                    self.advance(index, at)?;
                    self.engines[index].set_speed(self.disturbances.pace(index, at));
                    self.look_ahead(index);
                }
                Disturbance::Return(index) => {
                    self.engines[index].advance(self.now, &mut self.recorder)?;
                    let config = Arc::clone(&self.config.router_engine);
                    self.router.observe(Event::Joined { instance: instance(index), config }, self.now)?;
                }
            }
        }
        Ok(())
    }

    /// The client of a request goes away, unless the request has ended.
    fn abort(&mut self, row: usize) -> Result<()> {
        let open = self.recorder.records.outcome[row] == Outcome::Open;
        let Some(request) = self.keys[row].filter(|_| open) else { return Ok(()) };
        let in_flight = self.slots[row].is_some();
        if let Some(slot) = self.slots[row].take() {
            let index = self.recorder.records.instance[row] as usize;
            self.engines[index].cancel(self.now + self.config.delays.dispatch, slot)?;
            self.look_ahead(index);
        }
        self.recorder.ended(row, self.now, Outcome::Aborted);
        self.arrivals.ended(row, self.now);
        // What waits at the router cannot leak: the router itself hears the client go.
        if !(in_flight && self.disturbances.leaks(row)) {
            self.router.observe(Event::Cancelled { request }, self.now)?;
        }
        Ok(())
    }
}
