//! One log line about where each replica of a database stands.

use crate::cmd::clock::SystemClock;
use crate::log::LogRecord;
use crate::log::problem_log::lag_text;
use crate::log::target_name::TargetName;
use crate::replica::replicator::{Replicator, ReplicatorStatus};

/// Logs a line that begins with `record` for each replica of one database.
pub fn log_status(record: impl Fn(&ReplicatorStatus) -> LogRecord, replicator: &Replicator) {
    for status in replicator.statuses(&SystemClock) {
        log_replica_status(record(&status), replicator.name(), status);
    }
}

fn log_replica_status(record: LogRecord, database: &str, status: ReplicatorStatus) {
    let name = TargetName::of_replica(database, status.replica);
    let position = status.stored.map_or_else(|| "none".to_string(), |position| position.to_string());
    let mut record = name
        .tag(record)
        .field("position", position)
        .field("lag", lag_text(status.lag))
        .field("objects", status.objects)
        .field("bytes", status.bytes);
    if let Some(snapshot) = status.snapshot {
        record = record.field("snapshot", format!("{}/{}", snapshot.read, snapshot.total));
    }
    if let Some(problem) = status.problem {
        record = record.field("problem", problem);
    }
    record.emit();
}
