//! The restore of a moment after all that is stored: what a script means by "as of now".

use crate::error::Result;
use crate::format::listing::Listing;
use crate::format::plan_objects::{Plan, at_time, latest};
use crate::format::position::Generation;
use crate::format::time::{Timestamp, age_text};

/// The plan for `time`, where a moment after the newest stored one is the newest stored state, if nothing that is stored
/// says that there was a later one.
///
/// Errors: as for [`at_time`], which refuses such a moment.
pub(super) fn as_of(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<Plan> {
    match newest(listing, generation, time)? {
        Some(plan) => Ok(plan),
        None => at_time(listing, generation, time),
    }
}

/// The newest state, if `time` is after it and it is all that is stored.
fn newest(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<Option<Plan>> {
    let wanted = |id: Generation| generation.is_none_or(|only| only == id);
    let moments = listing.generations().filter(|(id, _)| wanted(*id)).filter_map(|(_, stored)| stored.latest_time());
    let Some(last) = moments.max().filter(|last| time > *last) else { return Ok(None) };
    let newer = listing.generations().any(|(id, _)| generation.is_some_and(|only| id > only));
    let restorable = listing.generations().any(|(id, stored)| wanted(id) && !stored.snapshots.is_empty());
    if newer || !restorable {
        return Ok(None);
    }
    let mut plan = latest(listing, generation)?;
    let segments = plan.segments.iter().map(|(key, _)| key.last_seen);
    let reach = segments.chain([plan.snapshot.time]).max();
    if reach != Some(last) || !plan.warnings.is_empty() {
        return Ok(None);
    }
    let age = age_text(time.since(last));
    plan.warnings.push(format!("the newest stored commit is from {last}, {age} before the requested moment"));
    Ok(Some(plan))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::format::fixtures::{millis, point};
    use crate::format::key::{SegmentKey, SnapshotKey};
    use crate::format::plan::{PlanTarget, StopAt, plan};

    fn snapshot(generation: u64, time: u64) -> String {
        SnapshotKey { generation: Generation::new(generation), position: point(0, 8), time: millis(time) }.to_string()
    }

    /// A segment that was seen at its end.
    fn segment(generation: u64, start: u64, end: u64, part: bool) -> String {
        let (generation, last) = (Generation::new(generation), millis(end));
        SegmentKey { generation, start: point(0, start), end: point(0, end), first_seen: last, last_seen: last, part }
            .to_string()
    }

    fn planned(names: &[String], generation: Option<u64>, time: u64) -> Result<Plan> {
        let listing = Listing::new(names.iter().map(|name| (name.clone(), 1)));
        plan(&listing, generation.map(Generation::new), &PlanTarget::AsOf(millis(time)))
    }

    #[test]
    fn as_of_after_the_newest_commit_gives_it_with_its_age() {
        let names = [snapshot(1, 8), segment(1, 8, 16, false), snapshot(2, 20), segment(2, 8, 5000, false)];
        let plan = planned(&names, None, 3_605_000).unwrap();
        assert_eq!((plan.snapshot.generation, plan.segments.len(), plan.stop), (Generation::new(2), 1, StopAt::End));
        assert_eq!(
            plan.warnings,
            ["the newest stored commit is from 1970-01-01T00:00:05.000Z, 1h before the requested moment"]
        );
        // Up to it, nothing is different.
        assert_eq!(planned(&names, None, 5000).unwrap().stop, StopAt::Time(millis(5000)));
    }

    #[test]
    fn as_of_is_refused_if_later_commits_existed() {
        let whole = [snapshot(1, 8), segment(1, 8, 16, false)];
        let table: [(&str, Vec<String>, Option<u64>, Kind); 6] = [
            ("nothing", vec![], None, Kind::NothingToRestore),
            ("no snapshot", vec![segment(1, 8, 16, false)], None, Kind::NothingToRestore),
            ("a transaction that is not whole", vec![segment(1, 16, 24, true)], None, Kind::NothingToRestore),
            ("a newer generation without a snapshot", vec![segment(2, 0, 24, false)], None, Kind::NothingToRestore),
            ("a newer generation", vec![snapshot(2, 30)], Some(1), Kind::NothingToRestore),
            ("a gap", vec![segment(1, 24, 32, false)], None, Kind::Corrupt),
        ];
        for (at, (what, more, generation, kind)) in table.into_iter().enumerate() {
            let names = if at < 2 { more } else { [&whole[..], &more[..]].concat() };
            let error: Option<Error> = planned(&names, generation, 90).err();
            assert_eq!(error.map(|error| error.kind()), Some(kind), "{what}");
        }
        assert_eq!(planned(&whole, None, 7).unwrap_err().kind(), Kind::NothingToRestore, "before all that is stored");
        assert!(planned(&whole, Some(1), 90).is_ok());
    }
}
