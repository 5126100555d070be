//! What a run is judged by: per-request times, gaps between tokens, and the figures of a report.

mod gaps;
mod records;

pub use gaps::GapHistogram;
pub use records::{NO_INSTANCE, Outcome, RequestRecords};
