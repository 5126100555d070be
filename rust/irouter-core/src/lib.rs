//! Routing of LLM requests, without I/O, clock or global randomness.
//!
//! ```text
//! request ─▶ prediction ─▶ state of every instance ─▶ policy ─▶ dispatch or hold
//!                              ▲                          │
//!                              └── events: first token, progress, finished ◀┘
//! ```
//!
//! Modules use only those above them: [`time`], [`ids`], [`hash`], [`prompt`], [`error`], [`length`], [`censored`], [`history`],
//! [`trees`], [`network`], [`request`], [`profile`], [`engine`], [`state`], [`impact`], [`queue`], [`policy`], [`router`].

pub mod censored;
pub mod decision;
pub mod engine;
pub mod error;
pub mod event;
pub mod hash;
pub mod history;
pub mod ids;
pub mod impact;
pub mod length;
pub mod network;
pub mod policy;
pub mod profile;
pub mod prompt;
pub mod queue;
pub mod request;
pub mod router;
pub mod state;
pub mod time;
pub mod trees;

pub use censored::ObservedLength;
pub use decision::{Decision, Outcome};
pub use error::{Error, Result};
pub use event::{EngineReport, Event};
pub use history::HistoryModel;
pub use ids::{InstanceId, RequestKey};
pub use length::LengthDistribution;
pub use profile::Profile;
pub use request::{Request, TenantId};
pub use router::{OnFailure, Router, RouterConfig};
pub use time::Picos;
