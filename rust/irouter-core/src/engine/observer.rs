//! What an engine tells while it runs.

use crate::time::Picos;

/// Receives what happens in an engine, in order of time. Every method does nothing unless implemented.
///
/// At a step's end come the gaps, then progress, then first tokens and finishes, each by order of admission; at a step's
/// start preemptions, the newest request first, then admissions.
pub trait Observer {
    /// The request was admitted to the batch; `cached_tokens` of its input came from the prefix cache. Called again
    /// when a preempted request is admitted again.
    fn admitted(&mut self, _tag: u64, _at: Picos, _cached_tokens: u32) {}
    /// The request's first token is out.
    fn first_token(&mut self, _tag: u64, _at: Picos) {}
    /// `count` requests each got a token, `gap` after their token before.
    fn gap(&mut self, _count: u32, _gap: Picos) {}
    /// The same for `steps` steps in a row: the gap grows by `increment` from one to the next.
    fn gaps(&mut self, count: u32, first: Picos, increment: Picos, steps: u64) {
        for step in 0..steps {
            self.gap(count, first + increment * step.cast_signed());
        }
    }
    /// The request has produced `tokens` so far, a multiple of the cadence that the engine was asked to report at. First
    /// and last tokens have calls of their own instead.
    fn progress(&mut self, _tag: u64, _at: Picos, _tokens: u32) {}
    /// The request lost its KV blocks and waits again.
    fn preempted(&mut self, _tag: u64, _at: Picos) {}
    /// The request's last token is out.
    fn finished(&mut self, _tag: u64, _at: Picos) {}
    /// A cancelled request has left; it had produced `tokens`.
    fn cancelled(&mut self, _tag: u64, _at: Picos, _tokens: u32) {}
}

/// Looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
