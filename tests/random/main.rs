//! What nobody thought of: random schedules, random bytes, and death at each step.

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod faults;
mod model;
mod mutations;
mod standby;
mod thinning;
