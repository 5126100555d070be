//! The prompts that an engine is to compute, packed into steps.

use crate::engine::EngineConfig;
use crate::profile::{Scale, SchedulerMode, StepShape};

/// Prefill steps as the scheduler will form them for the prompts known now, in order.
///
/// The requests that decode now are taken to decode in each of them (none does under `vllm-v0`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    speed: Scale,
    /// Until the first step that can take a newcomer.
    boundary_seconds: f64,
    decodes: u32,
    context: u64,
    /// Steps that are full.
    full_steps: u32,
    /// What they take beyond as many steps that only decode.
    full_seconds: f64,
    /// Prompts of the step after them.
    shape: StepShape,
    /// Decode step at which the last of the line starts.
    start: u32,
}

/// A prompt at the end of the line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Decode step, of those the engine now counts, at which it starts.
    pub(super) start: u32,
    /// Steps of prefill until its first token, its own included.
    pub(super) steps: u32,
    /// What they take beyond as many steps that only decode.
    pub(super) seconds: f64,
    /// The part of that which is due to it.
    pub(super) added_seconds: f64,
}

impl Line {
    pub(super) fn new(speed: Scale, boundary_seconds: f64) -> Self {
        Self {
            speed,
            boundary_seconds,
            decodes: 0,
            context: 0,
            full_steps: 0,
            full_seconds: 0.0,
            shape: StepShape::default(),
            start: 0,
        }
    }

    pub(super) fn speed(&self) -> Scale {
        self.speed
    }

    /// Decode step at which the last of the line starts.
    pub(super) fn start(&self) -> u32 {
        self.start
    }

    pub(super) fn boundary_seconds(&self) -> f64 {
        self.boundary_seconds
    }

    /// A request decodes with such a context.
    pub(super) fn decodes(&mut self, context: u32) {
        self.decodes += 1;
        self.context += u64::from(context);
    }

    /// A prompt of which `past` tokens are there and `tokens` are to be computed joins the end, and has its place in the
    /// batch after `room` decode steps. Returns the step at which it starts.
    pub(super) fn join(&mut self, config: &EngineConfig, room: u32, tokens: u32, past: u32) -> u32 {
        let turn = self.turn(config, room, tokens, past);
        self.pack(config, tokens, past);
        self.start = turn.start;
        turn.start
    }

    /// When its turn would come, without letting it join.
    pub(super) fn turn(&self, config: &EngineConfig, room: u32, tokens: u32, past: u32) -> Turn {
        let before = self.full_seconds + self.last_seconds(config);
        let mut with = *self;
        with.pack(config, tokens, past);
        let seconds = with.full_seconds + with.last_seconds(config);
        let steps = with.full_steps + 1;
        // Under `vllm-v0` a prefill step is none of the decode steps.
        let passed = if is_prefill_first(config) { 0 } else { with.full_steps };
        Turn { start: self.start.max(room).max(passed), steps, seconds, added_seconds: seconds - before }
    }

    /// Seconds of a step in which the requests decode that do now.
    pub(super) fn decode_seconds(&self, config: &EngineConfig) -> f64 {
        if self.decodes == 0 || is_prefill_first(config) {
            return 0.0;
        }
        config.steps.decode_run(self.decodes, self.context, self.speed).step(0).as_seconds()
    }

    /// What computing so many tokens of context again adds to a step.
    pub(super) fn recomputation_seconds(&self, config: &EngineConfig, context: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens of one request")]
        let tokens = context as u32;
        let mut alone = Self { full_steps: 0, full_seconds: 0.0, shape: StepShape::default(), ..*self };
        alone.pack(config, tokens, 0);
        alone.full_seconds + alone.last_seconds(config)
    }

    fn pack(&mut self, config: &EngineConfig, mut tokens: u32, mut past: u32) {
        let budget = config.scheduler.max_num_batched_tokens;
        let prefill_first = is_prefill_first(config);
        let budget = if prefill_first { budget } else { budget.saturating_sub(self.decodes).max(1) };
        loop {
            let room = budget.saturating_sub(self.shape.prefill_tokens);
            let full = room == 0 || prefill_first && tokens > room && self.shape.prefill_tokens > 0;
            if full {
                self.close(config);
                continue;
            }
            let chunk = if prefill_first { tokens } else { tokens.min(room) };
            self.shape.prefill_sequences += 1;
            self.shape.prefill_tokens += chunk;
            self.shape.prefill_pairs += u64::from(chunk) * (2 * u64::from(past) + u64::from(chunk));
            (tokens, past) = (tokens - chunk, past + chunk);
            if tokens == 0 {
                return;
            }
        }
    }

    fn close(&mut self, config: &EngineConfig) {
        self.full_seconds += self.last_seconds(config);
        self.full_steps += 1;
        self.shape = StepShape::default();
    }

    /// What the step that is not full takes beyond one that only decodes.
    fn last_seconds(&self, config: &EngineConfig) -> f64 {
        if self.shape.prefill_tokens == 0 {
            return 0.0;
        }
        let mut shape = self.shape;
        if !is_prefill_first(config) {
            (shape.decodes, shape.decode_context) = (self.decodes, self.context);
        }
        config.steps.step(&shape, self.speed).as_seconds() - self.decode_seconds(config)
    }
}

fn is_prefill_first(config: &EngineConfig) -> bool {
    config.scheduler.mode == SchedulerMode::VllmV0
}
