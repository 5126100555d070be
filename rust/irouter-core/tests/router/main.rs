//! The router from outside: its rules, its invariants, and the contract of every policy.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod forecast;
mod impact;
mod invariants;
mod policy_contract;
mod rules;
mod support;
mod twin;
