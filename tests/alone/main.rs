//! Tests that measure a time, a ratio or a count of wake-ups, or that look at their own process. Each takes
//! [`support::alone`] first, so that it is alone in this process; `docs/catalogue.rs` looks for that.

#[path = "../support/mod.rs"]
mod support;

mod fairness;
mod locks;
mod nats_client;
mod positions;
mod rest;
