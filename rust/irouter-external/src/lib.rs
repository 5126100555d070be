//! Policies in a process of their own, in any language: JSON Lines over a Unix socket, as `docs/external-policies.md` says.
//!
//! ```text
//! router ── hello, route ──▶ process        one message per line, one answer per message, in order
//!        ◀── instance ──────
//! ```
//!
//! Every decision has a time limit on the wall clock, so this crate is the one place under the simulator that reads a
//! clock and does I/O. What a run gives depends on the answers alone. An answer that is late, wrong or missing is the
//! policy's error, which a router with [`irouter_core::OnFailure::Fallback`] counts and makes good by least predicted work.

#[cfg(unix)]
mod connection;
#[cfg(unix)]
mod messages;
#[cfg(unix)]
mod policy;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod target;

use irouter_core::Result;
use irouter_core::policy::{Policy, PolicySpec};

/// How the names of external policies begin.
pub const PREFIX: &str = "external:";

/// Whether `spec` names an external policy.
pub fn is_external(spec: &PolicySpec) -> bool {
    spec.name().starts_with(PREFIX)
}

/// The external policy that `spec` names; `seed` is handed to it. Nothing is started before its first decision.
///
/// # Errors
/// [`irouter_core::Error::Field`] for a socket or a program that is not there and for a limit out of range,
/// [`irouter_core::Error::Unknown`] for another option.
#[cfg(unix)]
pub fn build(spec: &PolicySpec, seed: u64) -> Result<Box<dyn Policy>> {
    let target = target::Target::parse(spec.name())?;
    let limits = target::Limits::new(spec.options())?;
    Ok(Box::new(policy::ExternalPolicy::new(spec.name(), target, limits, seed)))
}

/// The external policy that `spec` names.
///
/// # Errors
/// [`irouter_core::Error::Field`]: this system has no Unix sockets.
#[cfg(not(unix))]
pub fn build(spec: &PolicySpec, _seed: u64) -> Result<Box<dyn Policy>> {
    let expected = "a policy of the package: this system has no Unix sockets";
    Err(irouter_core::Error::field("policy", spec.name(), expected))
}
