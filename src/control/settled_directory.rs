//! Whether anything can have come to a directory, or gone, since it was last read: one stat(2) instead of reading it again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// File systems stamp a directory by a clock that ticks every 2 seconds at worst (FAT), and a change within a tick has the time
/// of the one before it. A directory that is read this long after its time was first seen shows all that has this time.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// What tells one state of a directory from the next: device and number, when it was last changed, and when its inode was.
type DirectoryStamp = (u64, u64, (i64, i64), (i64, i64));

/// The stamp of a directory that is read again and again.
#[derive(Default)]
pub struct SettledDirectory {
    seen: Option<DirectoryState>,
}

struct DirectoryState {
    stamp: DirectoryStamp,
    since: Instant,
    /// It was read since that stamp had settled.
    read: bool,
}

impl SettledDirectory {
    /// Whether `directory` must be read now. True: the caller reads it, and what it finds is all that the stamp stands for, if
    /// that has settled.
    pub fn must_read(&mut self, directory: &Path, now: Instant) -> bool {
        self.judge(stamp(directory), now)
    }

    fn judge(&mut self, found: Option<DirectoryStamp>, now: Instant) -> bool {
        match (&mut self.seen, found) {
            (Some(seen), Some(stamp)) if seen.stamp == stamp => {
                let must = !seen.read;
                seen.read |= now.duration_since(seen.since) >= SETTLE_TIME;
                must
            }
            (seen, found) => {
                *seen = found.map(|stamp| DirectoryState { stamp, since: now, read: false });
                true
            }
        }
    }
}

/// None where it cannot be had.
fn stamp(directory: &Path) -> Option<DirectoryStamp> {
    let found = std::fs::metadata(directory).ok()?;
    let (modified, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    Some((found.dev(), found.ino(), modified, changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_read_until_its_time_has_settled() {
        let (begun, mut settled) = (Instant::now(), SettledDirectory::default());
        let stamp = |seconds: i64| Some((1, 2, (seconds, 0), (seconds, 0)));
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
            assert_eq!(settled.judge(found, begun + Duration::from_secs(second)), expected, "at {second}");
        }
    }

    #[test]
    fn a_new_file_changes_the_stamp_of_its_directory() {
        let folder = std::env::temp_dir().join(format!("litestream-settled-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let before = stamp(&folder).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        // The clock of the file system ticks.
        while stamp(&folder) == Some(before) {
            assert!(Instant::now() < end);
            std::fs::write(folder.join("ask"), "").unwrap();
            std::fs::remove_file(folder.join("ask")).unwrap();
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(stamp(&folder), None);
    }
}
