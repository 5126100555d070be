//! Policies that decide at even intervals.

use crate::time::Picos;

/// The multiples of an interval, at which alone a policy decides. One that comes late, by less than an interval, still counts.
#[derive(Clone, Debug)]
pub(super) struct Ticks {
    interval: Picos,
    /// The tick that was promised to the router.
    due: Option<Picos>,
    /// The instant of the tick that is being worked on.
    open: Option<Picos>,
    /// Whether no more is decided at that instant.
    closed: bool,
}

impl Ticks {
    /// Of a positive interval.
    pub(super) fn new(interval: Picos) -> Self {
        Self { interval, due: None, open: None, closed: false }
    }

    /// Whether a decision may be made now.
    pub(super) fn is_open(&mut self, now: Picos) -> bool {
        let on_time = now.0.rem_euclid(self.interval.0) == 0;
        let late = self.due.is_some_and(|due| due <= now && now.0 - due.0 < self.interval.0);
        if self.open != Some(now) && (on_time || late) {
            self.open = Some(now);
            self.due = None;
            self.closed = false;
        }
        self.open == Some(now) && !self.closed
    }

    /// No more is decided at this tick.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// The next tick after `now`, to which the policy holds.
    pub(super) fn next(&mut self, now: Picos) -> Picos {
        let since = now.0.rem_euclid(self.interval.0);
        let due = now.saturating_add(Picos(self.interval.0 - since));
        self.due = Some(due);
        due
    }
}
