//! Whether a stamp that the file system keeps tells of every change since something was read: a look at the stamp instead of
//! reading it again.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// File systems stamp by a clock that ticks every 2 seconds at worst (FAT), and a change within a tick has the time of the one
/// before it. What is read this long after its stamp was first seen shows all that has this stamp.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// What is read again and again, and has a stamp.
pub struct Settled<S> {
    seen: Option<SeenStamp<S>>,
}

struct SeenStamp<S> {
    stamp: S,
    since: Instant,
    /// It was read since that stamp had settled.
    read: bool,
}

impl<S> Default for Settled<S> {
    fn default() -> Settled<S> {
        Settled { seen: None }
    }
}

impl<S: PartialEq> Settled<S> {
    /// Whether it must be read now; `found` is its stamp, none where it cannot be had. True: the caller reads it, and what is
    /// found is all that the stamp stands for, if that has settled.
    pub fn must_read(&mut self, found: Option<S>, now: Instant) -> bool {
        match (&mut self.seen, found) {
            (Some(seen), Some(stamp)) if seen.stamp == stamp => {
                let must = !seen.read;
                seen.read |= now.duration_since(seen.since) >= SETTLE_TIME;
                must
            }
            (seen, found) => {
                *seen = found.map(|stamp| SeenStamp { stamp, since: now, read: false });
                true
            }
        }
    }
}

/// What tells one state of a directory from the next, in so far as names come and go: device and number, when it was last
/// changed, and when its inode was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryStamp {
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl DirectoryStamp {
    /// One stat(2). None where it cannot be had.
    pub fn of(directory: &Path) -> Option<DirectoryStamp> {
        std::fs::metadata(directory).ok().map(|found| DirectoryStamp::new(&found))
    }

    fn new(found: &Metadata) -> DirectoryStamp {
        DirectoryStamp {
            inode: (found.dev(), found.ino()),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// The stamps of directories, as of a moment ago: databases that share a directory share the look at it.
#[derive(Default)]
pub struct DirectoryStamps {
    found: HashMap<PathBuf, (Instant, Option<DirectoryStamp>)>,
}

impl DirectoryStamps {
    /// A turn of a thousand databases takes less.
    const SHARED_TIME: Duration = Duration::from_millis(100);

    /// The stamp of `directory`, not older than that.
    pub fn of(&mut self, directory: &Path, now: Instant) -> Option<DirectoryStamp> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < Self::SHARED_TIME;
        if let Some((_, stamp)) = self.found.get(directory).filter(|(at, _)| fresh(*at)) {
            return *stamp;
        }
        self.found.retain(|_, (at, _)| fresh(*at));
        let stamp = DirectoryStamp::of(directory);
        self.found.insert(directory.to_path_buf(), (now, stamp));
        stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_until_its_stamp_has_settled() {
        let (begun, mut settled) = (Instant::now(), Settled::default());
        let stamp = Some::<u32>;
        let table = [
            (0, stamp(1), true),
            (1, stamp(1), true),
            // What came in the same tick of the clock is found by this one.
            (3, stamp(1), true),
            (4, stamp(1), false),
            (60, stamp(1), false),
            (61, stamp(2), true),
            (62, stamp(2), true),
            (64, stamp(2), true),
            (65, stamp(2), false),
            (66, None, true),
            (67, None, true),
            (68, stamp(2), true),
            (69, stamp(2), true),
        ];
        for (second, found, expected) in table {
            assert_eq!(settled.must_read(found, begun + Duration::from_secs(second)), expected, "at {second}");
        }
    }

    #[test]
    fn a_new_file_changes_the_stamp_of_its_directory() {
        let folder = std::env::temp_dir().join(format!("litestream-settled-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let before = DirectoryStamp::of(&folder).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        // The clock of the file system ticks.
        while DirectoryStamp::of(&folder) == Some(before) {
            assert!(Instant::now() < end);
            std::fs::write(folder.join("ask"), "").unwrap();
            std::fs::remove_file(folder.join("ask")).unwrap();
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(DirectoryStamp::of(&folder), None);
    }

    #[test]
    fn a_stamp_is_shared_for_a_moment_and_no_longer() {
        let folder = std::env::temp_dir().join(format!("litestream-stamps-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (begun, mut stamps) = (Instant::now(), DirectoryStamps::default());
        let first = stamps.of(&folder, begun);
        assert!(first.is_some());
        std::fs::remove_dir_all(&folder).unwrap();
        let shared = begun + DirectoryStamps::SHARED_TIME;
        assert_eq!(stamps.of(&folder, shared - Duration::from_nanos(1)), first);
        assert_eq!(stamps.of(&folder, shared), None);
        assert_eq!(stamps.found.len(), 1);
    }
}
