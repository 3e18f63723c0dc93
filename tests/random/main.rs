//! What nobody thought of: random schedules, random bytes, and death at each step. Nothing else here may use SQLite in this
//! process: its random numbers are one sequence for all, and a seed of `deterministic` repeats them.

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod deterministic;
mod faults;
mod model;
mod mutations;
