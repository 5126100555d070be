//! The engine model seen from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agreement;
mod rules;
mod support;
mod twin;
