//! The policy that asks the process.

use std::os::unix::net::UnixStream;

use irouter_core::policy::{ClusterView, End, Needs, Policy};
use irouter_core::{Error, InstanceId, Picos, Request, Result};
use serde::de::DeserializeOwned;

use crate::connection::{Connection, NoAnswer};
use crate::messages::{Choice, EventView, Greeting, Message, PROTOCOL};
use crate::process::Process;
use crate::target::{Limits, Target};

/// How much of a bad answer an error repeats, in characters.
const REPEATED: usize = 80;

/// Asks an external process where each request goes.
pub(crate) struct ExternalPolicy {
    name: String,
    target: Target,
    limits: Limits,
    seed: u64,
    /// None before the first decision.
    link: Option<Link>,
    /// What has happened since the last message.
    events: Vec<EventView>,
    /// Late answers in a row.
    timeouts: u32,
}

enum Link {
    /// Fields are dropped in this order: the process ends by itself when its connection closes.
    Open { connection: Connection, _process: Option<Process> },
    /// It is not asked any more, and why.
    Ended(String),
}

impl ExternalPolicy {
    pub(crate) fn new(name: &str, target: Target, limits: Limits, seed: u64) -> Self {
        let name = name.to_owned();
        Self { name, target, limits, seed, link: None, events: Vec::new(), timeouts: 0 }
    }

    /// Asks where `request` goes; the message of an error says what was wrong with the answer.
    fn ask(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId, String> {
        let open = || open(&self.target, &self.limits, self.seed, view).unwrap_or_else(Link::Ended);
        let answer = match self.link.get_or_insert_with(open) {
            Link::Ended(reason) => return Err(reason.clone()),
            Link::Open { connection, .. } => {
                let question = line(&Message::route(view, request, &self.events))?;
                self.events.clear();
                connection.ask(&question, self.limits.answer())
            }
        };
        match answer {
            Ok(answer) => {
                self.timeouts = 0;
                let Choice { instance } = parse(&answer, r#"{"instance": NUMBER}"#)?;
                Ok(InstanceId(instance))
            }
            Err(NoAnswer::Late) => {
                self.timeouts += 1;
                let reason = format!("no answer within {} s", self.limits.timeout_s);
                if self.timeouts < self.limits.max_timeouts {
                    return Err(reason);
                }
                Err(self.end(format!("{reason}, {} times in a row: it is not asked any more", self.timeouts)))
            }
            Err(NoAnswer::Broken(reason)) => Err(self.end(reason)),
        }
    }

    /// Gives the process up.
    fn end(&mut self, reason: String) -> String {
        self.link = Some(Link::Ended(reason.clone()));
        self.events = Vec::new();
        reason
    }

    /// Keeps an event for the next message, where there will be one.
    fn note(&mut self, event: EventView) {
        if matches!(self.link, Some(Link::Open { .. })) {
            self.events.push(event);
        }
    }
}

impl Policy for ExternalPolicy {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        if view.ready().next().is_none() {
            return Err(view.no_instance());
        }
        let asked = self.ask(view, request);
        asked.map_err(|message| Error::Policy { policy: self.name.clone(), message })
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.note(EventView::dispatched(request, instance, now));
    }

    fn first_token(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.note(EventView::first_token(request, instance, now));
    }

    fn released(&mut self, request: &Request, instance: InstanceId, end: End) {
        self.note(EventView::ended(request, instance, end));
    }

    fn left(&mut self, instance: InstanceId) {
        self.note(EventView::left(instance));
    }
}

/// Starts or finds the process, and greets it.
fn open(target: &Target, limits: &Limits, seed: u64, view: &ClusterView<'_>) -> Result<Link, String> {
    let limit = limits.start();
    let (process, stream) = match target {
        Target::Command(command) => {
            let (process, stream) = Process::start(command, limit)?;
            (Some(process), stream)
        }
        Target::Socket(path) => {
            let refused = |error| format!("connecting to {} failed: {error}", path.display());
            (None, UnixStream::connect(path).map_err(refused)?)
        }
    };
    let mut connection = Connection::new(stream);
    let answer =
        connection.ask(&line(&Message::hello(seed, view))?, limit).map_err(|no_answer| match no_answer {
            NoAnswer::Late => format!("no answer to the greeting within {} s", limits.start_timeout_s),
            NoAnswer::Broken(reason) => reason,
        })?;
    match parse(&answer, r#"{"protocol": 1}"#)? {
        Greeting { protocol: PROTOCOL } => Ok(Link::Open { connection, _process: process }),
        Greeting { protocol } => Err(format!("it speaks protocol {protocol}, expected {PROTOCOL}")),
    }
}

fn line(message: &Message<'_>) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(line)
}

fn parse<T: DeserializeOwned>(answer: &[u8], expected: &str) -> Result<T, String> {
    serde_json::from_slice(answer).map_err(|error| {
        let text: String = String::from_utf8_lossy(answer).trim_end().chars().take(REPEATED).collect();
        format!("it answered {text:?}, expected {expected}: {error}")
    })
}
