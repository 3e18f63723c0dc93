//! `litestream restore -all`: every database of the configuration, or every one that is stored below a URL.
//!
//! One that fails does not keep the others from being restored.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli;
use crate::cmd::outputs::{clash_error, clashes};
use crate::cmd::restore_items::{Item, all};
use crate::cmd::restore_one::{Outcome, restore_one};
use crate::cmd::{Context, ExitStatus, print, print_error};
use crate::error::{Error, Kind, Result};
use crate::interrupt;
use crate::store::ConnectionPool;

pub fn run(ctx: &Context, options: &cli::RestoreOptions) -> Result<ExitStatus> {
    let mut pool = ConnectionPool::default();
    let items = all(ctx, options, &mut pool)?;
    if items.is_empty() {
        return Err(Error::new(Kind::NothingToRestore, "restore -all: nothing is stored"));
    }
    let mut worst = None;
    let mut rows = Vec::new();
    // Before anything is written.
    let outputs: Vec<Option<&Path>> = items.iter().map(|item| item.output.as_deref()).collect();
    for (item, other) in items.iter().zip(clashes(&outputs)) {
        let clash = other.and_then(|other| items.get(other)).and_then(|other| clash_of(item, other));
        let result = clash.map_or_else(|| restore_item(item, options, &mut pool), Err);
        let row = log_item(item, options, result.as_ref())?;
        rows.push(row);
        worst = worst.max(result.err().map(|error| severity(error.kind())));
        interrupt::check()?;
    }
    if options.json {
        print::json_value(&rows.into())?;
    }
    Ok(worst.map_or(0, |(_, status)| status))
}

/// Either of two databases would take the place of the other: neither is restored.
fn clash_of(item: &Item, other: &Item) -> Option<Error> {
    let (here, there) = (item.output.as_deref()?, other.output.as_deref()?);
    Some(clash_error(&item.replica.url, here, (&other.replica.url, there)))
}

fn restore_item(item: &Item, options: &cli::RestoreOptions, pool: &mut ConnectionPool) -> Result<Outcome> {
    if options.output.is_some() && !options.dry_run {
        item.create_parent()?;
    }
    restore_one(&item.replica, options, item.database.as_deref(), item.output.as_deref(), pool)
}

/// Prints one line a database, at once: a restore of many takes its time. What has failed goes to standard error.
fn log_item(
    item: &Item,
    options: &cli::RestoreOptions,
    result: std::result::Result<&Outcome, &Error>,
) -> Result<Value> {
    let path = item.output.as_ref().map(|path| path.display().to_string());
    let mut row = match result {
        Ok(outcome) => outcome.json(item.output.as_deref()),
        Err(error) => json!({ "path": path, "error": error.to_string() }),
    };
    if let Some(object) = row.as_object_mut() {
        object.insert("replica".into(), json!(item.replica.url));
        object.entry("error").or_insert(Value::Null);
    }
    match result {
        Err(error) => print_error(error),
        Ok(outcome) if !options.json && !options.quiet => {
            let name = path.unwrap_or_else(|| item.replica.url.clone());
            print::text(&outcome.line(&name))?;
        }
        Ok(_) => {}
    }
    Ok(row)
}

/// What an operator has to look at first is the worst: a damaged backup before a store that is away, and so on.
fn severity(kind: Kind) -> (u8, ExitStatus) {
    let rank = match kind {
        Kind::NothingToRestore | Kind::NotFound => 1,
        Kind::Usage => 2,
        Kind::Locked | Kind::AnotherDatabase => 3,
        Kind::Corrupt | Kind::NoIdentity => 6,
        Kind::Database | Kind::DatabaseNotReady => 4,
        _ => 5,
    };
    (rank, kind.exit_status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_backup_is_worse_than_one_that_is_not_there() {
        let worst = [Kind::NothingToRestore, Kind::Corrupt, Kind::StoreUnreachable].map(severity).into_iter().max();
        assert_eq!(worst.map(|(_, status)| status), Some(Kind::Corrupt.exit_status()));
    }
}
