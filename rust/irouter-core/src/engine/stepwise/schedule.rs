//! What one step computes.

use super::{Request, Stepwise};
use crate::engine::{EngineLoad, Observer};
use crate::error::{Error, Result};
use crate::profile::{SchedulerMode, StepShape};
use crate::time::Picos;

/// A step that has begun.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) end: Picos,
    /// Requests that compute something, in order of admission, and how many tokens.
    pub(super) work: Vec<(usize, u32)>,
    /// What the engine held when it began.
    pub(super) load_before: EngineLoad,
}

impl Stepwise {
    /// Begins the step at the boundary.
    pub(super) fn begin(&mut self, observer: &mut impl Observer) -> Result<()> {
        let load_before = self.present_load();
        let work = match self.mode() {
            SchedulerMode::VllmV0 => {
                let budget = self.config.scheduler.max_num_batched_tokens;
                let admitted = self.admit(budget, observer);
                if admitted.is_empty() { self.schedule_running(observer).0 } else { admitted }
            }
            SchedulerMode::VllmV1 | SchedulerMode::Sarathi => {
                let (mut work, preempted) = self.schedule_running(observer);
                if !preempted {
                    let used: u32 = work.iter().map(|&(_, tokens)| tokens).sum();
                    let budget = self.config.scheduler.max_num_batched_tokens.saturating_sub(used);
                    work.extend(self.admit(budget, observer));
                }
                work
            }
        };
        let mut shape = StepShape::default();
        for &(index, tokens) in &work {
            let request = &self.requests[index];
            let (past, chunk) = (u64::from(request.computed), u64::from(tokens));
            if request.decodes {
                shape.decodes += 1;
                shape.decode_context += past + 1;
            } else {
                shape.prefill_sequences += 1;
                shape.prefill_tokens += tokens;
                shape.prefill_pairs += chunk * (2 * past + chunk);
            }
        }
        let duration = self.config.steps.step(&shape, self.scale());
        let end = self.boundary.checked_add(duration).ok_or(Error::TimeOverflow { at: self.boundary })?;
        self.step = Some(Step { end, work, load_before });
        Ok(())
    }

    /// Gives running requests their tokens and blocks, in order of admission; also says whether one was preempted.
    fn schedule_running(&mut self, observer: &mut impl Observer) -> (Vec<(usize, u32)>, bool) {
        let mut work: Vec<(usize, u32)> = Vec::new();
        let mut budget = self.config.scheduler.max_num_batched_tokens;
        let mut preempted = false;
        let mut position = 0;
        while position < self.running.len() {
            let index = self.running[position];
            position += 1;
            let request = &self.requests[index];
            // Sarathi and vLLM v0 decode every running request; in vLLM v1 the budget never binds for a decode.
            let tokens = if request.decodes { 1 } else { (request.tokens() - request.computed).min(budget) };
            if tokens == 0 {
                continue;
            }
            let target = self.config.blocks_for(request.computed + tokens);
            let missing = target.saturating_sub(request.blocks);
            while self.pool.free() < missing {
                let Some(last) = self.running.pop() else { break };
                preempted = true;
                self.free_blocks(last);
                self.waiting.push_front(last);
                observer.preempted(self.requests[last].job.tag, self.boundary);
                if last == index {
                    return (work, preempted);
                }
            }
            self.pool.allocate(missing);
            self.requests[index].blocks += missing;
            if !self.requests[index].decodes {
                self.name_blocks(index, tokens);
            }
            budget = budget.saturating_sub(tokens);
            work.push((index, tokens));
        }
        (work, preempted)
    }

    /// Admits requests from the head of the queue while they fit.
    fn admit(&mut self, mut budget: u32, observer: &mut impl Observer) -> Vec<(usize, u32)> {
        let scheduler = self.config.scheduler.clone();
        let block_tokens = self.config.kv.block_tokens;
        let mut work = Vec::new();
        while let Some(&index) = self.waiting.front()
            && budget > 0
            && self.running.len() < scheduler.max_num_seqs as usize
        {
            let request = &self.requests[index];
            let input = request.tokens();
            let hashes = request.hashes(input - 1, block_tokens);
            let hits = self.pool.hits(hashes);
            let cached = hits.blocks * block_tokens;
            let rest = input - cached;
            let whole = self.config.blocks_for(input);
            let tokens = match scheduler.mode {
                SchedulerMode::VllmV0 if rest > budget && !work.is_empty() => break,
                SchedulerMode::VllmV0 => rest,
                SchedulerMode::VllmV1 | SchedulerMode::Sarathi => rest.min(budget),
            };
            let blocks = match scheduler.mode {
                SchedulerMode::VllmV1 => self.config.blocks_for(cached + tokens),
                SchedulerMode::VllmV0 | SchedulerMode::Sarathi => whole,
            };
            let free = self.pool.free();
            let kept = if self.running.is_empty() { 0 } else { self.config.watermark_blocks() };
            if blocks - hits.in_use + kept > free
                || scheduler.reserve_full_input && whole - hits.in_use > free
            {
                break;
            }
            let request = &mut self.requests[index];
            let hashes: Vec<u64> = request.hashes(cached, block_tokens).to_vec();
            self.pool.hold(&hashes, &mut request.held);
            self.pool.allocate(blocks - hits.blocks);
            (request.blocks, request.computed) = (blocks, cached);
            observer.admitted(request.job.tag, self.boundary, cached);
            self.name_blocks(index, tokens);
            self.waiting.pop_front();
            self.running.push(index);
            budget = budget.saturating_sub(tokens);
            work.push((index, tokens));
        }
        work
    }

    /// Lets the prompt blocks that the step fills be shared.
    fn name_blocks(&mut self, index: usize, tokens: u32) {
        let request = &mut self.requests[index];
        let hashes = request.hashes(request.computed + tokens, self.config.kv.block_tokens).to_vec();
        self.pool.name(&hashes, &mut request.held);
    }

    /// Ends the step that has begun.
    pub(super) fn complete(&mut self, observer: &mut impl Observer) {
        let Some(step) = self.step.take() else { return };
        self.boundary = step.end;
        let mut first = Vec::new();
        let mut done = Vec::new();
        for (index, tokens) in step.work {
            let request = &mut self.requests[index];
            request.computed += tokens;
            if request.computed < request.tokens() {
                continue;
            }
            if request.produced > 0 {
                observer.gap(1, step.end - request.last_token);
            }
            request.produced += 1;
            request.last_token = step.end;
            request.decodes = true;
            first.push(request.produced == 1);
            done.push(index);
        }
        if let Some(cadence) = self.progress {
            for &index in &done {
                let Request { job, produced, .. } = &self.requests[index];
                if *produced > 1 && *produced < job.output_tokens && *produced % cadence == 0 {
                    observer.progress(job.tag, step.end, *produced);
                }
            }
        }
        for (index, first) in done.into_iter().zip(first) {
            let request = &self.requests[index];
            let (tag, ended) = (request.job.tag, request.produced == request.job.output_tokens);
            if first {
                observer.first_token(tag, step.end);
            }
            if ended {
                self.leave(index);
                observer.finished(tag, step.end);
            }
        }
    }
}
