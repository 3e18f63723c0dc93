//! What is wrong with a replica, and what it has come to so far.

use std::time::Instant;

use crate::error::Error;
use crate::log::problem_log::ProblemLog;
use crate::replica::counters::ReplicatorCounters;

#[derive(Default)]
pub(super) struct Health {
    pub(super) problems: ProblemLog,
    pub(super) counters: ReplicatorCounters,
    /// Why nothing is written to this store for now, though others are.
    pub(super) failure: Option<StoreFailure>,
    /// The clock is behind what is stored, and that was said.
    pub(super) clock_warned: bool,
}

/// Why a store was given up for now.
pub(super) struct StoreFailure {
    pub(super) error: Error,
    /// None: the operator decides.
    pub(super) retry_at: Option<Instant>,
}
