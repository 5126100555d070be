//! What the router is told: news from the engines, no earlier than the event delay allows, and their own reports.

use irouter_core::engine::Executor;
use irouter_core::{EngineReport, Event, Picos};

use super::recorder::{News, Note};
use super::{Simulator, instance};
use crate::error::Result;

impl Simulator {
    /// Lets the router know what happened up to now, less the event delay.
    pub(super) fn synchronise(&mut self) -> Result<()> {
        let known = self.now - self.config.delays.event;
        self.poll(known)?;
        for index in 0..self.engines.len() {
            if self.next_news[index] <= known {
                self.advance(index, known)?;
            }
        }
        self.tell()
    }

    /// Brings an engine up to `until`, and writes down what happens there.
    pub(super) fn advance(&mut self, index: usize, until: Picos) -> Result<()> {
        if until > self.engines[index].clock() {
            self.recorder.instance = instance(index).0;
            self.engines[index].advance(until, &mut self.recorder)?;
        }
        self.look_ahead(index);
        Ok(())
    }

    /// Notes when an engine has to be looked at next.
    pub(super) fn look_ahead(&mut self, index: usize) {
        let engine = &mut self.engines[index];
        self.next_event[index] = engine.next_event().unwrap_or(Picos::MAX);
        self.next_news[index] = engine.next_report().unwrap_or(Picos::MAX);
    }

    /// Hands the engines' news to the router, each at its time plus the event delay.
    ///
    /// To be told between decisions and at once before the next is the same: nothing but a decision looks at what the
    /// router knows. A policy that reads nothing is told late, and when an instance breaks its last news come early.
    pub(super) fn tell(&mut self) -> Result<()> {
        let mut notes = std::mem::take(&mut self.recorder.notes);
        notes.sort_by_key(|note| note.at);
        for Note { at, row, news } in notes.drain(..) {
            let heard = (at + self.config.delays.event).min(self.now).max(self.router.now());
            let Some(request) = self.keys[row] else { continue };
            let event = match news {
                News::Started => Event::FirstToken { request, cached_tokens: self.recorder.cached(row) },
                News::Produced(tokens) => Event::Progress { request, tokens },
                News::Finished => {
                    self.slots[row] = None;
                    self.arrivals.ended(row, at + self.config.delays.event);
                    self.predictions.finished(&self.workload, row)?;
                    if self.disturbances.leaks(row) {
                        continue;
                    }
                    let tokens = self.workload.output_tokens()[row];
                    Event::Finished { request, tokens: Some(tokens) }
                }
            };
            self.router.observe(event, heard)?;
        }
        self.recorder.notes = notes;
        Ok(())
    }

    /// Tells the router the engines' own metrics as of the last multiple of the policy's interval that has become known.
    fn poll(&mut self, known: Picos) -> Result<()> {
        self.read(known)?;
        for index in 0..self.engines.len() {
            if let Some(report) = self.reports[index].take()
                && self.disturbances.is_up(index)
            {
                self.router.observe(Event::EngineReport { instance: instance(index), report }, self.now)?;
            }
        }
        Ok(())
    }

    /// Reads these metrics as of the last such multiple up to `known`, unless they were read then.
    pub(super) fn read(&mut self, known: Picos) -> Result<()> {
        let Some(interval) = self.needs.reports.map(|interval| interval.0.max(1)) else { return Ok(()) };
        let tick = known.0.div_euclid(interval);
        if tick <= self.polled {
            return Ok(());
        }
        self.polled = tick;
        let at = Picos(tick * interval);
        for index in 0..self.engines.len() {
            self.advance(index, at)?;
            let engine = &self.engines[index];
            let load = engine.load();
            let blocks = f64::from(engine.config().kv.blocks);
            self.reports[index] = Some(EngineReport {
                at,
                waiting: load.waiting,
                running: load.running,
                kv_usage: (f64::from(load.used_blocks) / blocks).min(1.0),
                queued_prefill_tokens: load.queued_prefill_tokens,
            });
        }
        Ok(())
    }
}
