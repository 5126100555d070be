//! Peak memory of a simulation per million requests, workload, predictions and figures included.
//!
//! The peak of a process never falls, so the difference between a run of twice as many requests and a run of as many is what
//! so many take, without the program itself.
#![expect(clippy::print_stdout, reason = "prints its result")]

use irouter_bench::Conversations;
use irouter_core::{Error, Result as CoreResult};
use irouter_sim::Result;

const REQUESTS: usize = 500_000;

/// The process's peak resident memory in bytes.
fn peak_bytes() -> CoreResult<u64> {
    let path = "/proc/self/status";
    let unreadable = |message: String| Error::Schema { what: path.to_owned(), message };
    let status = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.map(|kibibytes| kibibytes * 1024).ok_or_else(|| unreadable("no VmHWM".to_owned()))
}

/// Peak after a run of `requests`.
fn after(requests: usize, policy: &str) -> Result<u64> {
    Conversations::new(16, 0.8, requests)?.run(policy)?;
    Ok(peak_bytes()?)
}

fn main() -> Result<()> {
    let policy = "least_work";
    let (once, twice) = (after(REQUESTS, policy)?, after(2 * REQUESTS, policy)?);
    let megabytes = (twice - once) as f64 / REQUESTS as f64;
    println!("peak memory of {policy} on 16 instances: {megabytes:.0} MB per million requests");
    Ok(())
}
