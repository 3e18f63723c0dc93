//! `litestream generations`, `snapshots` and `wal`: what is stored, as the names tell it.

use std::rc::Rc;

use crate::backup::listing::load_listing;
use crate::cli;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::print::Table;
use crate::cmd::{Context, ExitStatus, connect};
use crate::error::{Error, Kind, Result};
use crate::format::listing::{GenerationObjects, Listing};
use crate::format::position::Position;
use crate::format::resolution::{Stretch, resolution};
use crate::format::time::Timestamp;
use crate::replica::standalone_snapshot::origin_of;
use crate::store::{ConnectionPool, Store};

pub fn generations(ctx: &Context, options: &cli::HistoryOptions) -> Result<ExitStatus> {
    let (listing, store) = load_selection(ctx, options)?;
    let mut table =
        Table::new(&["generation", "snapshots", "segments", "size", "start", "end", "database", "restorable"]);
    for (generation, stored) in listing.generations() {
        let moment = |time: Option<Timestamp>| time.map(|time| time.to_string()).into();
        let sizes = stored.snapshots.iter().map(|(_, size)| size).chain(stored.segments.iter().map(|(_, size)| size));
        table.row([
            generation.to_string().into(),
            (stored.snapshots.len() as u64).into(),
            (stored.segments.len() as u64).into(),
            sizes.sum::<u64>().into(),
            moment(stored.first_snapshot()),
            moment(stored.latest_time()),
            database_of(&*store, stored)?.into(),
            restorable(stored).into(),
        ]);
    }
    table.print(options.json)?;
    Ok(0)
}

/// Which of its states; none, where nothing of it can be restored.
fn restorable(stored: &GenerationObjects) -> Option<String> {
    let stretches: Vec<String> = resolution(stored).iter().map(Stretch::to_string).collect();
    (!stretches.is_empty()).then(|| stretches.join(", "))
}

/// The host and path of the database that a generation was taken of, as its newest snapshot records them.
fn database_of(store: &dyn Store, stored: &GenerationObjects) -> Result<Option<String>> {
    let Some((key, _)) = stored.snapshots.last() else { return Ok(None) };
    Ok(origin_of(store, &SystemClock, &key.to_string())?.0.map(|origin| origin.to_string()))
}

pub fn snapshots(ctx: &Context, options: &cli::HistoryOptions) -> Result<ExitStatus> {
    let (listing, _) = load_selection(ctx, options)?;
    let mut table = Table::new(&["position", "size", "created"]);
    for (generation, stored) in listing.generations() {
        for (key, size) in &stored.snapshots {
            let position = Position { generation, wal_position: key.position };
            table.row([position.to_string().into(), (*size).into(), key.time.to_string().into()]);
        }
    }
    table.print(options.json)?;
    Ok(0)
}

pub fn wal(ctx: &Context, options: &cli::HistoryOptions) -> Result<ExitStatus> {
    let (listing, _) = load_selection(ctx, options)?;
    let mut table = Table::new(&["start", "end", "size", "first", "last", "kind"]);
    let wanted = |generation| options.generation.is_none_or(|only| only == generation);
    for (generation, stored) in listing.generations().filter(|(generation, _)| wanted(*generation)) {
        for (key, size) in &stored.segments {
            let position = |point| Position { generation, wal_position: point }.to_string().into();
            let kind = match (key.part, key.is_rollup()) {
                (true, _) => "part",
                (_, true) => "rollup",
                _ => "whole",
            };
            table.row([
                position(key.start),
                position(key.end),
                (*size).into(),
                key.first_moment().to_string().into(),
                key.last_seen.to_string().into(),
                kind.into(),
            ]);
        }
    }
    table.print(options.json)?;
    Ok(0)
}

/// Everything of ours below the replica's prefix, and the store that it is in.
///
/// Errors: of kind `NothingToRestore` if there is none, or none of the generation that was asked for.
fn load_selection(ctx: &Context, options: &cli::HistoryOptions) -> Result<(Listing, Rc<dyn Store>)> {
    let (replica, _) = ctx.replica(&options.source)?;
    let mut pool = ConnectionPool::default();
    let store = connect(&replica, &mut pool)?;
    let listing = load_listing(&*store, &SystemClock).map_err(|e| e.context(&replica.url))?;
    let missing = |what: String| Error::new(Kind::NothingToRestore, format!("{}: {what}", replica.url));
    if listing.is_empty() {
        return Err(with_stored_hint(missing("nothing is stored".into()), &replica, &mut pool));
    }
    match options.generation {
        Some(only) if listing.generation(only).is_none() => Err(missing(format!("no generation {only}"))),
        _ => Ok((listing, store)),
    }
}
