//! State of the cluster: every instance, and every request in exactly one place.
//!
//! Invariants, checked by property tests: tokens are conserved (an instance without requests has zero in every sum), no
//! counter is negative, an ended request has returned all that it held, an instance that comes back starts clean, memory
//! is bounded by the requests known at a time and the KV blocks of the instances.

mod instance;
mod ledger;
mod prefix_index;
mod twin;
mod work;

use std::sync::Arc;

pub use instance::{InstanceState, SinceReport, Status};
pub(crate) use prefix_index::BlockHasher;
pub use prefix_index::PrefixIndex;
pub use twin::Twin;
pub use work::{Effort, WorkRates};

use crate::engine::{EngineConfig, Job, JobSlot};
use crate::error::{Error, Result};
use crate::event::EngineReport;
use crate::ids::{InstanceId, RequestKey};
use crate::policy::Needs;
use crate::request::Request;
use crate::time::Picos;

use instance::{MILLITOKENS, Sums};
use ledger::{Entry, Lease, Ledger, Place, TwinLease};

/// How state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateOptions {
    /// What has to be kept up to date.
    pub needs: Needs,
    /// Time from a decision until the engine has the request, as the twin assumes it.
    pub dispatch_delay: Picos,
    /// Progress is known in multiples of this many tokens.
    pub progress_tokens: u32,
}

/// Every instance and every request known to the router.
#[derive(Clone, Debug)]
pub struct State {
    options: StateOptions,
    instances: Vec<InstanceState>,
    /// How many of them are ready.
    ready: u32,
    ledger: Ledger,
}

/// What a progress event told that was not known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// Where the request is.
    pub instance: InstanceId,
    /// Whether it is the first the router hears of its start.
    pub started: bool,
}

/// A request in flight on an instance.
#[derive(Clone, Copy, Debug)]
pub struct Resident<'a> {
    /// The request.
    pub request: &'a Request,
    /// Tokens known to have been produced (needs [`Needs::progress`]).
    pub produced: u32,
    /// Expected output tokens still to come, given those (needs [`Needs::progress`]).
    pub remaining_tokens: f64,
    /// Prompt tokens that the instance was expected to compute when it was dispatched.
    pub uncached_tokens: u32,
    /// Its place in the instance's twin (needs [`Needs::twin`]).
    pub slot: Option<JobSlot>,
}

/// A request that is no longer known.
#[derive(Clone, Debug)]
pub struct Released {
    /// The request.
    pub request: Request,
    /// The instance it was on; `None` when it waited at the router.
    pub instance: Option<InstanceId>,
    /// Tokens known to have been produced.
    pub tokens: u32,
}

impl State {
    /// A cluster without instances.
    pub fn new(options: StateOptions) -> Self {
        Self { options, instances: Vec::new(), ready: 0, ledger: Ledger::default() }
    }

    /// What is kept up to date.
    pub fn needs(&self) -> Needs {
        self.options.needs
    }

    /// All instances ever known, by number.
    pub fn instances(&self) -> &[InstanceState] {
        &self.instances
    }

    /// One instance.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`].
    pub fn instance(&self, id: InstanceId) -> Result<&InstanceState> {
        self.instances.get(id.index()).ok_or(Error::UnknownInstance { instance: id })
    }

    /// How many instances take requests.
    pub fn ready(&self) -> u32 {
        self.ready
    }

    /// Requests known: waiting and dispatched.
    pub fn requests(&self) -> usize {
        self.ledger.len()
    }

    /// A waiting request and its predicted effort; `None` when it does not wait.
    pub fn waiting(&self, key: RequestKey) -> Option<(&Request, Effort)> {
        match self.ledger.get(key) {
            Ok(Entry { request, effort, place: Place::Waiting }) => Some((request, *effort)),
            _ => None,
        }
    }

    /// A request that is known.
    ///
    /// # Errors
    /// [`Error::UnknownRequest`].
    pub fn request(&self, key: RequestKey) -> Result<&Request> {
        self.ledger.get(key).map(|entry| &entry.request)
    }

    /// The requests in flight on an instance, in no particular order; none on an instance that is not known.
    pub fn residents(&self, id: InstanceId) -> impl Iterator<Item = Resident<'_>> {
        let slots = self.instances.get(id.index()).map_or(&[][..], |instance| &instance.slots);
        slots.iter().filter_map(|&slot| self.ledger.lease(slot)).map(|(request, lease)| Resident {
            request,
            produced: lease.produced,
            remaining_tokens: lease.remaining_millitokens as f64 / MILLITOKENS,
            uncached_tokens: lease.uncached_tokens,
            slot: lease.twin.map(|twin| twin.slot),
        })
    }

    /// Time from a decision until the engine has the request, as the twins assume it.
    pub fn dispatch_delay(&self) -> Picos {
        self.options.dispatch_delay
    }

    /// Whether any request is on an instance, so that an event is to come.
    pub fn anything_in_flight(&self) -> bool {
        self.instances.iter().any(|instance| !instance.slots.is_empty())
    }

    /// Notes a request that waits at the router.
    pub(crate) fn submitted(&mut self, request: Request, effort: Effort) -> RequestKey {
        self.ledger.insert(Entry { request, effort, place: Place::Waiting })
    }

    /// Moves a waiting request to an instance. Returns the prompt tokens expected to be cached there.
    pub(crate) fn dispatched(&mut self, key: RequestKey, id: InstanceId, now: Picos) -> Result<u32> {
        let StateOptions { dispatch_delay, .. } = self.options;
        let entry = self.ledger.get_mut(key)?;
        if let Place::Dispatched(lease) = &entry.place {
            let reason = format!("it is on {}", lease.instance);
            return Err(Error::ImpossibleEvent { event: "dispatched", subject: key.to_string(), reason });
        }
        let request = &entry.request;
        let instance = self.instances.get_mut(id.index()).ok_or(Error::UnknownInstance { instance: id })?;
        let cached = instance.cached_tokens(request.prompt_tokens, request.prompt_blocks.as_deref());
        let uncached = request.prompt_tokens - cached;
        let twin = match &mut instance.twin {
            Some(twin) => {
                let job = twin_job(key, request, &instance.config);
                Some(TwinLease {
                    slot: twin.dispatched(now + dispatch_delay, job)?,
                    produced: 0,
                    modelled: 0,
                })
            }
            None => None,
        };
        if let (Some(index), Some(blocks)) = (&mut instance.prefix, &request.prompt_blocks) {
            index.touch(blocks);
        }
        let predicted = millitokens(request, 0);
        let lease = Lease {
            instance: id,
            position: instance.in_flight(),
            uncached_tokens: uncached,
            started: false,
            produced: 0,
            remaining_millitokens: predicted,
            twin,
        };
        instance.version += 1;
        instance.slots.push(key.slot);
        instance.sums.awaiting_first_token += 1;
        instance.sums.queued_prefill_tokens += u64::from(uncached);
        instance.sums.prompt_tokens += u64::from(request.prompt_tokens);
        instance.sums.remaining_millitokens += predicted;
        instance.since_report.requests += 1;
        instance.since_report.prompt_tokens += u64::from(uncached);
        entry.place = Place::Dispatched(lease);
        Ok(cached)
    }

    /// A first token came; returns the instance when it is news.
    pub(crate) fn first_token(
        &mut self,
        key: RequestKey,
        cached_tokens: Option<u32>,
        now: Picos,
    ) -> Result<Option<InstanceId>> {
        self.ledger.get(key)?;
        let Some((request, lease)) = self.ledger.lease_mut(key.slot) else {
            return Err(not_dispatched("first token", key));
        };
        let instance = &mut self.instances[lease.instance.index()];
        instance.version += 1;
        if let (Some(cached), Some(index), Some(blocks)) =
            (cached_tokens, &mut instance.prefix, &request.prompt_blocks)
        {
            // What was expected to be there and was not is no longer expected; this request has brought it again.
            if cached < request.prompt_tokens - lease.uncached_tokens {
                let held = (cached / instance.config.kv.block_tokens) as usize;
                index.disprove(&blocks[held.min(blocks.len())..]);
                index.touch(blocks);
            }
        }
        if lease.started {
            return Ok(None);
        }
        lease.started = true;
        instance.sums.awaiting_first_token -= 1;
        instance.sums.queued_prefill_tokens -= u64::from(lease.uncached_tokens);
        set_produced(instance, request, lease, 1, self.options.progress_tokens, now)?;
        Ok(Some(instance.id))
    }

    /// A request has produced `tokens` so far. Fewer than known before change nothing: events may overtake each other.
    pub(crate) fn progress(&mut self, key: RequestKey, tokens: u32, now: Picos) -> Result<Option<News>> {
        self.ledger.get(key)?;
        let Some((request, lease)) = self.ledger.lease_mut(key.slot) else {
            return Err(not_dispatched("progress", key));
        };
        if tokens > request.max_tokens {
            return Err(Error::ImpossibleEvent {
                event: "progress",
                subject: key.to_string(),
                reason: format!("{tokens} tokens are more than its max_tokens = {}", request.max_tokens),
            });
        }
        if !lease.started && tokens > 0 {
            let started = self.first_token(key, None, now)?;
            self.progress(key, tokens, now)?;
            return Ok(started.map(|instance| News { instance, started: true }));
        }
        let instance = &mut self.instances[lease.instance.index()];
        let more = set_produced(instance, request, lease, tokens, self.options.progress_tokens, now)?;
        Ok(more.then_some(News { instance: instance.id, started: false }))
    }

    /// Refuses an event that only a dispatched request can have.
    pub(crate) fn expect_dispatched(&self, event: &'static str, key: RequestKey) -> Result<()> {
        match self.ledger.get(key)?.place {
            Place::Dispatched(_) => Ok(()),
            Place::Waiting => Err(not_dispatched(event, key)),
        }
    }

    /// Takes a request out, wherever it is.
    pub(crate) fn released(&mut self, key: RequestKey, now: Picos) -> Result<Released> {
        let Entry { request, place, .. } = self.ledger.remove(key)?;
        let Place::Dispatched(lease) = place else {
            return Ok(Released { request, instance: None, tokens: 0 });
        };
        let instance = &mut self.instances[lease.instance.index()];
        instance.version += 1;
        let sums = &mut instance.sums;
        if !lease.started {
            sums.awaiting_first_token -= 1;
            sums.queued_prefill_tokens -= u64::from(lease.uncached_tokens);
        }
        sums.prompt_tokens -= u64::from(request.prompt_tokens);
        sums.produced_tokens -= u64::from(lease.produced);
        sums.remaining_millitokens -= lease.remaining_millitokens;
        instance.slots.swap_remove(lease.position as usize);
        if let (Some(twin), Some(place)) = (&mut instance.twin, lease.twin) {
            twin.advance(now)?;
            twin.remove(place.slot);
        }
        let moved = instance.slots.get(lease.position as usize).copied();
        if let Some((_, moved)) = moved.and_then(|slot| self.ledger.lease_mut(slot)) {
            moved.position = lease.position;
        }
        Ok(Released { request, instance: Some(lease.instance), tokens: lease.produced })
    }

    /// An instance takes requests from now on.
    pub(crate) fn joined(&mut self, id: InstanceId, config: Arc<EngineConfig>) -> Result<()> {
        let impossible =
            |reason: String| Error::ImpossibleEvent { event: "joined", subject: id.to_string(), reason };
        let (generation, version) = match self.instances.get(id.index()) {
            None if id.index() == self.instances.len() => (0, 0),
            None => return Err(impossible(format!("the next free number is {}", self.instances.len()))),
            Some(before) if before.status == Status::Left => (before.generation + 1, before.version + 1),
            Some(before) => return Err(impossible(format!("it is {}", before.status.describe()))),
        };
        let Needs { twin, prefix, .. } = self.options.needs;
        let fresh = InstanceState {
            id,
            status: Status::Ready,
            generation,
            version,
            rates: WorkRates::new(&config),
            slots: Vec::new(),
            sums: Sums::default(),
            report: None,
            since_report: SinceReport::default(),
            twin: twin.then(|| Twin::new(Arc::clone(&config))),
            prefix: (prefix && config.kv.prefix_cache).then(|| PrefixIndex::new(config.kv.blocks)),
            config,
        };
        self.ready += 1;
        if generation == 0 {
            self.instances.push(fresh);
        } else {
            self.instances[id.index()] = fresh;
        }
        Ok(())
    }

    /// An instance takes no more requests.
    pub(crate) fn draining(&mut self, id: InstanceId) -> Result<()> {
        let instance = self.instances.get_mut(id.index()).ok_or(Error::UnknownInstance { instance: id })?;
        if instance.status == Status::Left {
            let reason = "it is gone".to_owned();
            return Err(Error::ImpossibleEvent { event: "draining", subject: id.to_string(), reason });
        }
        self.ready -= u32::from(instance.is_ready());
        instance.version += 1;
        instance.status = Status::Draining;
        Ok(())
    }

    /// A draining instance takes requests again, with all that it holds.
    pub(crate) fn resumed(&mut self, id: InstanceId) -> Result<()> {
        let instance = self.instances.get_mut(id.index()).ok_or(Error::UnknownInstance { instance: id })?;
        if instance.status != Status::Draining {
            let reason = format!("it is {}", instance.status.describe());
            return Err(Error::ImpossibleEvent { event: "resumed", subject: id.to_string(), reason });
        }
        instance.status = Status::Ready;
        self.ready += 1;
        Ok(())
    }

    /// An instance is gone. Returns the keys of the requests it held, which are still to be released.
    pub(crate) fn left(&mut self, id: InstanceId) -> Result<Vec<RequestKey>> {
        let instance = self.instances.get_mut(id.index()).ok_or(Error::UnknownInstance { instance: id })?;
        self.ready -= u32::from(instance.is_ready());
        instance.version += 1;
        instance.status = Status::Left;
        instance.report = None;
        Ok(instance.slots.iter().map(|&slot| self.ledger.key(slot)).collect())
    }

    /// An engine reported its metrics. A report older than the last one changes nothing.
    pub(crate) fn reported(&mut self, id: InstanceId, report: EngineReport) -> Result<()> {
        let instance = self.instances.get_mut(id.index()).ok_or(Error::UnknownInstance { instance: id })?;
        if !(0.0..=1.0).contains(&report.kv_usage) {
            return Err(Error::field("engine report kv_usage", report.kv_usage, "a share from 0 to 1"));
        }
        if instance.report.is_none_or(|before| before.at <= report.at) {
            instance.version += 1;
            instance.report = Some(report);
            instance.since_report = SinceReport::default();
        }
        Ok(())
    }

    /// Brings what every twin shows up to `now`.
    pub(crate) fn advance_twins(&mut self, now: Picos) -> Result<()> {
        if !self.options.needs.twin {
            return Ok(());
        }
        self.instances
            .iter_mut()
            .filter_map(|instance| instance.twin.as_mut())
            .try_for_each(|twin| twin.look(now))
    }
}

/// Sets what a started request is known to have produced, and brings the sums and the twin in line. Returns whether it is
/// more than was known.
fn set_produced(
    instance: &mut InstanceState,
    request: &Request,
    lease: &mut Lease,
    tokens: u32,
    cadence: u32,
    now: Picos,
) -> Result<bool> {
    if let (Some(twin), Some(place)) = (&mut instance.twin, &mut lease.twin) {
        twin.advance(now)?;
        // At least what is known, and less than one more report's worth.
        let known = tokens.max(lease.produced);
        place.modelled += twin.produced(place.slot).saturating_sub(place.produced);
        if tokens > lease.produced {
            if lease.produced > 1 {
                twin.compare(place.modelled, tokens - lease.produced);
            }
            place.modelled = 0;
        }
        let corrected = twin.bound(place.slot, known, known + cadence);
        instance.version += u64::from(corrected);
        place.produced = twin.produced(place.slot);
    }
    if tokens <= lease.produced {
        return Ok(false);
    }
    instance.version += 1;
    let remaining = millitokens(request, tokens);
    let sums = &mut instance.sums;
    sums.produced_tokens += u64::from(tokens - lease.produced);
    sums.remaining_millitokens = sums.remaining_millitokens - lease.remaining_millitokens + remaining;
    lease.produced = tokens;
    lease.remaining_millitokens = remaining;
    Ok(true)
}

/// Expected output still to come after `produced` tokens, in thousandths of a token.
fn millitokens(request: &Request, produced: u32) -> u64 {
    let tokens = request.predicted.expected_remaining(produced, request.max_tokens);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to max_tokens")]
    {
        libm::round(tokens * MILLITOKENS) as u64
    }
}

/// The request as the twin gets it: of open length, cut to what can fit the KV cache at all.
fn twin_job(key: RequestKey, request: &Request, config: &EngineConfig) -> Job {
    let room = config.kv.blocks.saturating_mul(config.kv.block_tokens).saturating_sub(request.prompt_tokens);
    Job {
        tag: u64::from(key.slot),
        prompt_tokens: request.prompt_tokens,
        output_tokens: request.max_tokens.min(room).max(1),
        prompt_blocks: request.prompt_blocks.clone(),
    }
}

fn not_dispatched(event: &'static str, key: RequestKey) -> Error {
    Error::ImpossibleEvent { event, subject: key.to_string(), reason: "it waits at the router".to_owned() }
}
