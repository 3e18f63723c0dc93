//! `litestream delete`: retires a stored database. Every object of ours below its prefix goes; objects of others stay.

use std::io::{BufRead, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backup::listing::load_listing;
use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::print;
use crate::cmd::{Context, ExitStatus, connect};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::key::Key;
use crate::format::listing::Listing;
use crate::format::owner;
use crate::format::time::Timestamp;
use crate::log;
use crate::printable::human_size;
use crate::printable::printable;
use crate::store::{ConnectionPool, LeaseHolder, Store, WriterLease};

/// Between two looks at what the store has answered.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// What the operator types to confirm.
const CONFIRMATION: &str = "delete";

pub fn run(ctx: &Context, options: &cli::DeleteOptions) -> Result<ExitStatus> {
    let (replica, _) = ctx.replica(&options.source)?;
    let mut pool = ConnectionPool::default();
    let store = connect(&replica, &mut pool)?;
    let listing = load_listing(&*store, &SystemClock).with_context(|| format!("delete {}", replica.url))?;
    if listing.is_empty() {
        let error = Error::new(Kind::NothingToRestore, format!("delete {}: nothing is stored", replica.url));
        return Err(with_stored_hint(error, &replica, &mut pool));
    }
    let summary = Summary::of(&listing);
    if options.dry_run {
        report(&replica.url, "would delete", &summary, options.json)?;
        return Ok(0);
    }
    // The lease tells whether a program replicates to it now, and refuses one that starts.
    let mut lease = store.acquire_lease(&LeaseHolder {
        database: "(delete)".to_string(),
        since: SystemClock.utc_now(),
        takeover: false,
        anonymous: true,
    });
    wait_for_lease(&mut *lease, &*store).with_context(|| format!("delete {}", replica.url))?;
    if !options.confirmed {
        confirm(&replica.url, &summary)?;
    }
    delete_all(&store, &mut *lease, &listing).with_context(|| format!("delete {}", replica.url))?;
    report(&replica.url, "deleted", &summary, options.json)?;
    if listing.foreign_count() > 0 {
        log::warn("objects of another program ignored")
            .field("store", &replica.url)
            .field("count", listing.foreign_count())
            .emit();
    }
    Ok(0)
}

/// What would go.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    generations: usize,
    objects: usize,
    bytes: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Summary {
    fn of(listing: &Listing) -> Summary {
        let stored = || listing.generations().map(|(_, stored)| stored);
        let sizes = stored().flat_map(|stored| {
            stored.snapshots.iter().map(|(_, size)| *size).chain(stored.segments.iter().map(|(_, size)| *size))
        });
        Summary {
            generations: stored().count(),
            objects: names(listing).len(),
            bytes: sizes.fold(0, u64::saturating_add),
            first: stored().filter_map(|stored| stored.earliest_time()).min(),
            last: stored().filter_map(|stored| stored.latest_time()).max(),
        }
    }

    fn text(&self) -> String {
        let moment = |time: Option<Timestamp>| time.map_or_else(|| "-".to_string(), |time| time.to_string());
        let plural = if self.generations == 1 { "generation" } else { "generations" };
        format!(
            "{} objects, {}, of {} {plural}: every moment from {} to {}",
            self.objects,
            human_size(self.bytes),
            self.generations,
            moment(self.first),
            moment(self.last),
        )
    }
}

/// Every object, in the order in which they go: the oldest generation first, and in each its snapshots, oldest first. So
/// that at no moment a restore gives an older state than before: it gives the newest one, or nothing.
fn names(listing: &Listing) -> Vec<String> {
    let of_generation = |stored: &crate::format::listing::GenerationObjects| -> Vec<String> {
        let snapshots = stored.snapshots.iter().map(|(key, _)| Key::Snapshot(*key).to_string());
        snapshots.chain(stored.segments.iter().map(|(key, _)| Key::Segment(*key).to_string())).collect()
    };
    listing.generations().flat_map(|(_, stored)| of_generation(stored)).collect()
}

fn wait_for_lease(lease: &mut dyn WriterLease, store: &dyn Store) -> Result<()> {
    while lease.poll(SystemClock.now())?.is_none() {
        store.wait(POLL_INTERVAL);
    }
    Ok(())
}

/// Asks on a terminal.
///
/// Errors: of kind `Usage` where nobody can be asked, or who was asked did not confirm.
fn confirm(url: &str, summary: &Summary) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            format!("delete {url}: standard input is not a terminal, nothing is deleted"),
        )
        .with_hint("litestream delete -yes deletes without asking, -dry-run shows what would be deleted"));
    }
    let mut err = std::io::stderr();
    let question = format!("{url}: {}\ntype {CONFIRMATION:?} to delete it permanently: ", summary.text());
    let _ = err.write_all(question.as_bytes()).and_then(|()| err.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if answer.trim() == CONFIRMATION => Ok(()),
        _ => Err(Error::new(Kind::Usage, format!("delete {url}: not confirmed, nothing is deleted"))),
    }
}

fn delete_all(store: &Rc<dyn Store>, lease: &mut dyn WriterLease, listing: &Listing) -> Result<()> {
    // Last, who was kept there: until then it protects what is left.
    let owner = listing.owner().map(owner::name);
    let mut delete = store.delete(names(listing).into_iter().chain(owner).collect());
    loop {
        let now: Instant = SystemClock.now();
        lease.poll(now)?;
        if delete.poll(now)?.is_ready() {
            break;
        }
        store.wait(POLL_INTERVAL);
    }
    while lease.remove_record(SystemClock.now())?.is_pending() {
        store.wait(POLL_INTERVAL);
    }
    let left = load_listing(&**store, &SystemClock)?;
    if !left.is_empty() {
        let what = format!("expected nothing to be left, found {} objects", names(&left).len());
        return Err(Error::new(Kind::Locked, what)
            .with_hint("a replicator stored objects during the deletion: stop it and delete again"));
    }
    Ok(())
}

fn report(url: &str, what: &str, summary: &Summary, as_json: bool) -> Result<()> {
    if !as_json {
        return print::text(&format!("{what} {}: {}\n", printable(url), summary.text()));
    }
    print::json_value(&json!({
        "replica": url,
        "generations": summary.generations,
        "objects": summary.objects,
        "bytes": summary.bytes,
        "first": summary.first.map(|time| time.to_string()),
        "last": summary.last.map(|time| time.to_string()),
        "deleted": what == "deleted",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::{SegmentKey, SnapshotKey};
    use crate::format::plan::{Plan, PlanTarget, plan};
    use crate::format::position::Generation;

    fn listing() -> Listing {
        let snapshot = |generation, at, time| {
            SnapshotKey { generation: Generation::new(generation), position: point(0, at), time: millis(time) }
                .to_string()
        };
        let segment = |generation, start, end, time| {
            let (start, end) = (point(0, start), point(0, end));
            let generation = Generation::new(generation);
            SegmentKey { generation, start, end, first_seen: millis(time), last_seen: millis(time), part: false }
                .to_string()
        };
        let old = [snapshot(GENERATION, 0, 1), segment(GENERATION, 0, 10, 2), snapshot(GENERATION, 10, 3)];
        let new = [snapshot(GENERATION + 1, 0, 5), segment(GENERATION + 1, 0, 9, 6), snapshot(GENERATION + 1, 9, 7)];
        Listing::new(old.into_iter().chain(new).map(|name| (name, 1)))
    }

    #[test]
    fn an_interrupted_delete_never_leaves_an_older_state_to_restore() {
        let whole = listing();
        let end = |plan: &Plan| {
            (plan.snapshot.generation, plan.segments.last().map_or(plan.snapshot.position, |(key, _)| key.end))
        };
        let newest = end(&plan(&whole, None, &PlanTarget::Latest).unwrap());
        let names = names(&whole);
        for gone in 0..=names.len() {
            let left = Listing::new(names.iter().skip(gone).map(|name| (name.clone(), 1)));
            if let Ok(plan) = plan(&left, None, &PlanTarget::Latest) {
                assert_eq!(end(&plan), newest, "after {gone}");
            }
        }
    }

    #[test]
    fn the_summary_tells_moments_and_bytes() {
        let summary = Summary::of(&listing());
        assert_eq!((summary.generations, summary.objects, summary.bytes), (2, 6, 6));
        assert_eq!((summary.first, summary.last), (Some(millis(1)), Some(millis(7))));
    }
}
