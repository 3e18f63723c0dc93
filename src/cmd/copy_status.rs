//! `litestream status` of a copy that `restore -f` keeps: where it is, beside what is stored.

use crate::cmd::{EXIT_BEHIND, ExitStatus};
use crate::error::Error;
use crate::format::listing::{Listing, latest_time};
use crate::restore::standby::seen::CopyState;
use crate::restore::standby::stored_after;

/// What is said of a copy.
#[derive(Debug, PartialEq, Eq)]
pub struct CopyStatus {
    pub state: String,
    /// Bytes that are stored and not in the copy, where that is known.
    pub behind: Option<u64>,
    /// How much older it is than what is stored, in seconds, rounded up.
    pub seconds: Option<u64>,
    pub exit: ExitStatus,
}

/// Compares the copy with what is stored.
pub fn of_copy(seen: &CopyState, listing: Result<&Listing, &Error>) -> CopyStatus {
    let listing = match listing {
        Ok(listing) => listing,
        Err(error) => {
            let (state, exit) = (format!("unreachable: {error}"), error.kind().exit_status());
            return CopyStatus { state, behind: None, seconds: None, exit };
        }
    };
    let bytes = stored_after(listing, &seen.position);
    let newest = latest_time(listing).filter(|_| bytes != Some(0)).unwrap_or(seen.time);
    let seconds = u64::try_from(newest.since(seen.time).as_millis().div_ceil(1000)).ok();
    let (state, exit) = match bytes {
        _ if !seen.followed => ("not followed: no process keeps it up to date", EXIT_BEHIND),
        Some(0) => ("following", 0),
        Some(_) => ("behind", EXIT_BEHIND),
        None => ("behind: a new generation is stored", EXIT_BEHIND),
    };
    CopyStatus { state: state.to_string(), behind: bytes, seconds, exit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::{SegmentKey, SnapshotKey};
    use crate::format::position::{Generation, Position};

    #[test]
    fn a_copy_is_told_from_what_is_stored_after_it() {
        let generation = |more: u64| Generation::new(GENERATION + more);
        let snapshot = |more, time| {
            SnapshotKey { generation: generation(more), position: point(0, 0), time: millis(time) }.to_string()
        };
        let segment = |start, end, time| {
            let (start, end) = (point(0, start), point(0, end));
            let seen = millis(time);
            SegmentKey { generation: generation(0), start, end, first_seen: seen, last_seen: seen, part: false }
                .to_string()
        };
        let seen = |offset, followed| CopyState {
            position: Position { generation: generation(0), wal_position: point(0, offset) },
            time: millis(1_000 + offset),
            encrypted: false,
            followed,
            contact: millis(9),
        };
        let names = vec![snapshot(0, 1_000), segment(0, 10, 1_010), segment(10, 30, 3_011)];
        let later = [names.clone(), vec![snapshot(1, 8_000)]].concat();
        let rows = [
            (&names, seen(30, true), "following", Some(0), Some(0), 0),
            (&names, seen(10, true), "behind", Some(7), Some(3), 1),
            (&names, seen(30, false), "not followed", Some(0), Some(0), 1),
            (&later, seen(30, true), "behind: a new generation", None, Some(7), 1),
        ];
        for (names, seen, state, behind, seconds, exit) in rows {
            let listing = Listing::new(names.iter().map(|name| (name.clone(), 7)));
            let found = of_copy(&seen, Ok(&listing));
            assert!(found.state.starts_with(state), "{found:?}");
            assert_eq!((found.behind, found.seconds, found.exit), (behind, seconds, exit), "{state}");
        }
    }
}
