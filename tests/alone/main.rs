//! Tests that measure a time, a ratio or a count of wake-ups, or that look at their own process. Each takes
//! [`support::alone`] first, so that it is alone in this process; `docs/catalogue.rs` looks for that.
//!
//! So do those that run a replicator in this process: its random numbers are one sequence for all, which a seed of
//! `deterministic` repeats, and a process that another test starts has its lock until the program is loaded.

#[path = "../support/mod.rs"]
mod support;

mod closing;
mod deterministic;
mod fairness;
mod history;
mod locks;
mod nats_client;
mod positions;
mod rest;
mod retention;
mod standby;
mod unproven;
