//! What log lines call the place that something is about.

use crate::log::LogRecord;

/// A database, and one of its replicas where it has several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetName {
    database: String,
    replica: Option<String>,
}

impl TargetName {
    pub fn of_database(database: &str) -> TargetName {
        TargetName { database: database.to_string(), replica: None }
    }

    pub fn of_replica(database: &str, replica: Option<String>) -> TargetName {
        TargetName { replica, ..TargetName::of_database(database) }
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn replica(&self) -> Option<&str> {
        self.replica.as_deref()
    }

    /// Adds the name to a line.
    pub fn tag(&self, line: LogRecord) -> LogRecord {
        let line = line.field("db", &self.database);
        match &self.replica {
            Some(replica) => line.field("replica", replica),
            None => line,
        }
    }
}
