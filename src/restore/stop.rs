//! The exact point at which a restore stops.

use crate::clock::Clock;
use crate::error::{Result, ResultExt};
use crate::format::key::SegmentKey;
use crate::format::plan::{Plan, StopAt};
use crate::format::position::WalPosition;
use crate::format::segment::SegmentReader;
use crate::format::time::Timestamp;
use crate::restore::object_reader::{ObjectReader, ReadLog};
use crate::store::Store;

/// Finds the exact point to stop at, which for a moment in time stands inside the last object.
pub fn resolve_stop<'p>(
    store: &dyn Store,
    clock: &dyn Clock,
    plan: &'p Plan,
) -> Result<(&'p [(SegmentKey, u64)], WalPosition)> {
    let mut segments = plan.segments.as_slice();
    let begin = plan.snapshot.position;
    let end = |segments: &[(SegmentKey, u64)]| segments.last().map_or(begin, |(key, _)| key.end.max(begin));
    match plan.stop {
        StopAt::End => Ok((segments, end(segments))),
        StopAt::Point(point) => Ok((segments, point)),
        StopAt::Time(time) => {
            while let Some(((key, _), before)) = segments.split_last() {
                if key.last_seen <= time && !key.part {
                    break;
                }
                let found = last_commit_by(store, clock, key, time).with_context(|| format!("object {key}"))?;
                if let Some(point) = found.filter(|point| *point > begin) {
                    return Ok((segments, point));
                }
                segments = before;
            }
            Ok((segments, end(segments)))
        }
    }
}

/// The end of the last member that ends a transaction and was seen by `time`.
fn last_commit_by(
    store: &dyn Store,
    clock: &dyn Clock,
    key: &SegmentKey,
    time: Timestamp,
) -> Result<Option<WalPosition>> {
    let read = ReadLog::default();
    let mut reader = SegmentReader::named(key, ObjectReader::new(store, clock, &key.to_string(), &read));
    let mut found = None;
    while let Some(header) = reader.next_member()? {
        if header.visible_by > time {
            break;
        }
        if !header.part {
            found = Some(header.end_point());
        }
    }
    Ok(found)
}
