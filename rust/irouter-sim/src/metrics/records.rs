//! What happened to each request of a run, as columns.

use irouter_core::Picos;

/// In [`RequestRecords::instance`]: the request was never dispatched.
pub const NO_INSTANCE: u32 = u32::MAX;

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It has not ended.
    #[default]
    Open,
    /// Its last token is out.
    Completed,
    /// It was rejected, timed out, or lost with its instance.
    Failed,
    /// The client went away.
    Aborted,
    /// It can never run (longer than the model's context) and was left out on request.
    Dropped,
}

/// Times and fate of each request; row `i` belongs to row `i` of the workload.
///
/// A time is [`RequestRecords::NEVER`] until it is known. Times are those of the engine, without the delay of the event
/// on its way to the router.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestRecords {
    /// Arrival at the router.
    pub arrival: Vec<Picos>,
    /// The router's (last) decision to dispatch it.
    pub dispatched: Vec<Picos>,
    /// When it reached the engine's waiting queue.
    pub reached_engine: Vec<Picos>,
    /// Its first admission to a batch.
    pub admitted: Vec<Picos>,
    /// First token.
    pub first_token: Vec<Picos>,
    /// Last token, or the end without one.
    pub finished: Vec<Picos>,
    /// How often it lost its KV blocks.
    pub preemptions: Vec<u32>,
    /// Where it ran (last).
    pub instance: Vec<u32>,
    /// How it ended.
    pub outcome: Vec<Outcome>,
}

impl RequestRecords {
    /// A time that has not come.
    pub const NEVER: Picos = Picos::MAX;

    /// Records of requests that arrive at `arrival` and to which nothing has happened yet.
    pub fn new(arrival: &[Picos]) -> Self {
        let rows = arrival.len();
        let never = vec![Self::NEVER; rows];
        Self {
            arrival: arrival.to_vec(),
            dispatched: never.clone(),
            reached_engine: never.clone(),
            admitted: never.clone(),
            first_token: never.clone(),
            finished: never,
            preemptions: vec![0; rows],
            instance: vec![NO_INSTANCE; rows],
            outcome: vec![Outcome::Open; rows],
        }
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.arrival.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.arrival.is_empty()
    }
}
