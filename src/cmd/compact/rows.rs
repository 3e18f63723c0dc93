//! What `compact` tells of each database: as a table, as JSON, or in the log.

use serde_json::{Value, json};

use crate::cli;
use crate::cmd::print::{self, Table};
use crate::error::Result;
use crate::format::preview::Preview;
use crate::log;
use crate::replica::maintenance::MaintenanceResult;
use crate::thinning::Thinned;

/// What became of one database.
pub struct CompactRow {
    pub replica: String,
    pub done: Result<Done>,
}

pub enum Done {
    Compacted(MaintenanceResult, Thinned),
    Planned(Preview),
}

pub fn log_row(row: &CompactRow) {
    match &row.done {
        Ok(Done::Compacted(done, thinned))
            if done.merged + done.deleted + thinned.rollups + thinned.snapshots + thinned.new_snapshots > 0 =>
        {
            log::info("compacted")
                .field("replica", &row.replica)
                .field("merged", done.merged)
                .field("into", done.into)
                .field("rollups", thinned.rollups)
                .field("snapshots", thinned.new_snapshots)
                .field("deleted", done.deleted + thinned.snapshots)
                .emit();
        }
        Ok(_) => {}
        Err(error) => log::warn("not compacted, trying again").field("replica", &row.replica).error(error).emit(),
    }
}

pub fn print_rows(rows: &[CompactRow], options: &cli::CompactOptions) -> Result<()> {
    if options.json {
        return print::json_value(&rows.iter().map(|row| json_row(row, options.dry_run)).collect());
    }
    let columns: &[&str] = match options.dry_run {
        true => &[
            "replica",
            "segments",
            "after",
            "delete",
            "bytes",
            "first",
            "first after",
            "rollups",
            "states",
            "states after",
        ],
        false => &["replica", "merged", "into", "rollups", "deleted", "snapshots"],
    };
    let mut table = Table::new(columns);
    let number = |number: usize| (number as u64).into();
    for row in rows {
        let replica = || row.replica.clone().into();
        match &row.done {
            Ok(Done::Compacted(done, thinned)) => {
                let deleted = done.deleted + thinned.snapshots;
                table.row([
                    replica(),
                    number(done.merged),
                    number(done.into),
                    number(thinned.rollups),
                    number(deleted),
                    number(thinned.new_snapshots),
                ]);
            }
            Ok(Done::Planned(planned)) => table.row([
                replica(),
                number(planned.segments),
                number(planned.segments_after),
                number(planned.delete),
                planned.delete_bytes.into(),
                planned.first.map(|time| time.to_string()).into(),
                planned.first_after.map(|time| time.to_string()).into(),
                number(planned.rollups),
                number(planned.states),
                number(planned.states_after),
            ]),
            Err(_) => {}
        }
    }
    table.print(false)
}

/// What is not known is null, so that a name always has one type.
fn json_row(row: &CompactRow, dry_run: bool) -> Value {
    let (planned, compacted) = match &row.done {
        Ok(Done::Planned(planned)) => (Some(planned), None),
        Ok(Done::Compacted(done, thinned)) => (None, Some((done, thinned))),
        Err(_) => (None, None),
    };
    let error = row.done.as_ref().err().map(|error| error.message());
    match dry_run {
        true => json!({
            "replica": row.replica,
            "segments": planned.map(|it| it.segments),
            "segments_after": planned.map(|it| it.segments_after),
            "delete": planned.map(|it| it.delete),
            "delete_bytes": planned.map(|it| it.delete_bytes),
            "first": planned.and_then(|it| it.first).map(|time| time.to_string()),
            "first_after": planned.and_then(|it| it.first_after).map(|time| time.to_string()),
            "rollups": planned.map(|it| it.rollups),
            "states": planned.map(|it| it.states),
            "states_after": planned.map(|it| it.states_after),
            "not_deleted_because": planned.and_then(|it| it.skipped_reason),
            "error": error,
        }),
        false => json!({
            "replica": row.replica,
            "merged": compacted.map(|(it, _)| it.merged),
            "into": compacted.map(|(it, _)| it.into),
            "rollups": compacted.map(|(_, thinned)| thinned.rollups),
            "snapshots": compacted.map(|(_, thinned)| thinned.new_snapshots),
            "bytes": compacted.map(|(it, thinned)| it.bytes + thinned.bytes),
            "deleted": compacted.map(|(it, thinned)| it.deleted + thinned.snapshots),
            "error": error,
        }),
    }
}
