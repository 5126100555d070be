//! Every iteration, with a loop over the requests: the engine as it would be explained.
//!
//! Shares with [`super::FastForward`] the configuration, the step times and the blocks, and nothing else, so that each
//! is the test of the other.

mod schedule;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use self::schedule::Step;
use super::blocks::BlockPool;
use super::{EngineConfig, EngineLoad, Executor, Job, JobSlot, Noise, Observer};
use crate::error::{Error, Result};
use crate::profile::{Scale, SchedulerMode};
use crate::time::Picos;

/// One instance of an engine, advanced step by step.
#[derive(Clone, Debug)]
pub struct Stepwise {
    config: Arc<EngineConfig>,
    noise: Option<Noise>,
    clock: Picos,
    /// End of the last completed step.
    boundary: Picos,
    latest: Picos,
    inbox: VecDeque<(Picos, Message)>,
    requests: Vec<Request>,
    waiting: VecDeque<usize>,
    running: Vec<usize>,
    pool: BlockPool,
    step: Option<Step>,
    progress: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Arrive(usize),
    Cancel(usize),
}

#[derive(Clone, Debug)]
struct Request {
    job: Job,
    produced: u32,
    /// Tokens in the KV cache.
    computed: u32,
    /// Whether its input has been computed, so that it gets a token per step.
    decodes: bool,
    /// Blocks that it holds, those of the prefix cache included.
    blocks: u32,
    /// Those of the prefix cache.
    held: Vec<u32>,
    last_token: Picos,
    left: bool,
}

impl Request {
    /// Tokens of prompt and output so far.
    fn tokens(&self) -> u32 {
        self.job.prompt_tokens + self.produced
    }

    /// Hashes of its prompt blocks that lie in the first `tokens` tokens.
    fn hashes(&self, tokens: u32, block_tokens: u32) -> &[u64] {
        let full = (tokens.min(self.job.prompt_tokens) / block_tokens) as usize;
        self.job.prompt_blocks.as_deref().map_or(&[], |hashes| &hashes[..hashes.len().min(full)])
    }
}

impl Stepwise {
    /// An idle engine at time zero.
    pub fn new(config: Arc<EngineConfig>, noise: Option<Noise>) -> Self {
        Self {
            pool: BlockPool::new(&config),
            config,
            noise,
            clock: Picos::ZERO,
            boundary: Picos::ZERO,
            latest: Picos::ZERO,
            inbox: VecDeque::new(),
            requests: Vec::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            step: None,
            progress: None,
        }
    }

    /// The same engine, idle as it is, that tells of every multiple of `cadence` tokens ([`Observer::progress`]).
    #[must_use]
    pub fn with_progress(mut self, cadence: NonZeroU32) -> Self {
        self.progress = Some(cadence);
        self
    }

    fn check_time(&mut self, at: Picos) -> Result<()> {
        if at < self.latest {
            return Err(Error::TimeWentBack { from: self.latest, to: at });
        }
        self.latest = at;
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    fn receive(&mut self, observer: &mut impl Observer) {
        while let Some(&(at, message)) = self.inbox.front()
            && at <= self.boundary
        {
            self.inbox.pop_front();
            match message {
                Message::Arrive(request) => self.waiting.push_back(request),
                Message::Cancel(request) if self.requests[request].left => {}
                Message::Cancel(request) => {
                    self.waiting.retain(|&other| other != request);
                    self.leave(request);
                    let Request { job, produced, .. } = &self.requests[request];
                    observer.cancelled(job.tag, self.boundary, *produced);
                }
            }
        }
    }

    /// Takes a request out of the engine, with its blocks.
    fn leave(&mut self, index: usize) {
        self.running.retain(|&other| other != index);
        self.free_blocks(index);
        self.requests[index].left = true;
    }

    fn free_blocks(&mut self, index: usize) {
        let request = &mut self.requests[index];
        #[expect(clippy::cast_possible_truncation, reason = "blocks are counted in 32 bits")]
        let unnamed = request.blocks - request.held.len() as u32;
        self.pool.release_all(unnamed, &mut request.held);
        (request.blocks, request.computed, request.decodes) = (0, 0, false);
    }

    fn present_load(&self) -> EngineLoad {
        let mut load = EngineLoad { used_blocks: self.pool.used(), ..EngineLoad::default() };
        for &index in &self.running {
            let request = &self.requests[index];
            load.running += 1;
            if request.decodes {
                load.decode_context_tokens += u64::from(request.tokens());
            } else {
                load.queued_prefill_tokens += u64::from(request.tokens() - request.computed);
            }
        }
        for &index in &self.waiting {
            load.waiting += 1;
            load.queued_prefill_tokens += u64::from(self.requests[index].tokens());
        }
        load
    }

    fn scale(&self) -> Scale {
        self.noise.as_ref().map_or(Scale::ONE, |noise| noise.scale(self.boundary))
    }

    fn mode(&self) -> SchedulerMode {
        self.config.scheduler.mode
    }
}

impl Executor for Stepwise {
    fn submit(&mut self, at: Picos, job: Job) -> Result<JobSlot> {
        self.config.check(&job)?;
        self.check_time(at)?;
        let index = self.requests.len();
        self.requests.push(Request {
            job,
            produced: 0,
            computed: 0,
            decodes: false,
            blocks: 0,
            held: Vec::new(),
            last_token: Picos::ZERO,
            left: false,
        });
        self.inbox.push_back((at, Message::Arrive(index)));
        #[expect(clippy::cast_possible_truncation, reason = "requests fit 32 bits")]
        Ok(JobSlot(index as u32))
    }

    fn cancel(&mut self, at: Picos, slot: JobSlot) -> Result<()> {
        self.check_time(at)?;
        self.inbox.push_back((at, Message::Cancel(slot.0 as usize)));
        Ok(())
    }

    fn advance(&mut self, until: Picos, observer: &mut impl Observer) -> Result<()> {
        if until < self.clock {
            return Err(Error::TimeWentBack { from: self.clock, to: until });
        }
        self.latest = self.latest.max(until);
        loop {
            if let Some(step) = &self.step {
                if step.end > until {
                    break;
                }
                self.complete(observer);
                continue;
            }
            if self.is_idle() {
                let Some(&(at, _)) = self.inbox.front() else { break };
                self.boundary = self.boundary.max(at);
            }
            if self.boundary >= until {
                break;
            }
            self.receive(observer);
            if !self.is_idle() {
                self.begin(observer)?;
            }
        }
        self.clock = until;
        Ok(())
    }

    fn next_event(&mut self) -> Option<Picos> {
        if let Some(step) = &self.step {
            return Some(step.end);
        }
        let start = if self.is_idle() { self.inbox.front()?.0 } else { self.boundary };
        Some(start.max(self.boundary).saturating_add(Picos(1)))
    }

    fn load(&self) -> EngineLoad {
        let mut load = self.step.as_ref().map_or_else(|| self.present_load(), |step| step.load_before);
        for &(at, message) in &self.inbox {
            if let Message::Arrive(index) = message
                && at <= self.clock
            {
                load.waiting += 1;
                load.queued_prefill_tokens += u64::from(self.requests[index].tokens());
            }
        }
        load
    }

    fn produced(&self, slot: JobSlot) -> u32 {
        self.requests.get(slot.0 as usize).map_or(0, |request| request.produced)
    }
}
