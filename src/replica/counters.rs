//! Counts for metrics: errors by kind, and generations by the reason why they began.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::error::Kind;

/// Since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicatorCounters {
    pub errors: BTreeMap<&'static str, u64>,
    pub generations: BTreeMap<String, u64>,
}

impl ReplicatorCounters {
    pub fn error(&mut self, kind: Kind) {
        *self.errors.entry(name(kind)).or_default() += 1;
    }

    pub fn generation(&mut self, reason: impl Display) {
        *self.generations.entry(reason.to_string()).or_default() += 1;
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Usage => "usage",
        Kind::Database => "database",
        Kind::DatabaseNotReady => "database-not-ready",
        Kind::StoreRefused => "store",
        Kind::StoreUnreachable => "unreachable",
        Kind::NotFound => "not-found",
        Kind::Corrupt | Kind::NoIdentity => "corrupt",
        Kind::NothingToRestore => "nothing",
        Kind::Locked => "locked",
        Kind::TakenOver => "taken-over",
        Kind::AnotherDatabase => "another-database",
        Kind::ReconnectsExhausted => "gave up",
    }
}
