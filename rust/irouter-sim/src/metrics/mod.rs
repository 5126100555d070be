//! What a run is judged by: per-request times, gaps between tokens, and the figures of a report.

mod gaps;
mod quantile;
mod records;
mod report;
mod slo;
mod summary;
mod unloaded;

pub use gaps::GapHistogram;
pub use quantile::{mean, quantiles};
pub use records::{NO_INSTANCE, Outcome, RequestRecords};
pub use report::{canonical_json, finite};
pub use slo::Slo;
pub use summary::{Run, Summary};
pub use unloaded::{Unloaded, unloaded};
