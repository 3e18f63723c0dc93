//! What the kernel says of a file without a look into it: any write changes it.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// Which file (devices have other numbers after the next boot, and do not count), how long, and when it was last written to.
/// A time of change cannot be set by hand, as that of the last write can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStamp {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

impl FileStamp {
    pub(super) fn of(path: &Path) -> Result<FileStamp> {
        let found = std::fs::metadata(path).map_err(|e| Error::io(Kind::Database, "stat the database", &e))?;
        Ok(FileStamp::new(&found))
    }

    pub(super) fn new(found: &Metadata) -> FileStamp {
        FileStamp {
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// The number of the file.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Whether the last change was at least `age` before `moment`, in seconds and nanoseconds of the same clock.
    pub fn is_older_than(&self, moment: (i64, i64), age: Duration) -> bool {
        let nanos = |(seconds, nanos): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        nanos(moment) - nanos(self.changed) >= age.as_nanos().try_into().unwrap_or(i128::MAX)
    }
}

impl fmt::Display for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileStamp { inode, size, modified, changed } = self;
        write!(f, "{inode} {size} {}.{:09} {}.{:09}", modified.0, modified.1, changed.0, changed.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_old_only_if_a_later_write_would_have_another_time() {
        let stamp = FileStamp { inode: 2, size: 3, modified: (9, 0), changed: (9, 990_000_000) };
        let age = Duration::from_millis(50);
        for (moment, expected) in
            [((10, 40_000_000), true), ((10, 39_999_999), false), ((9, 990_000_000), false), ((8, 0), false)]
        {
            assert_eq!(stamp.is_older_than(moment, age), expected, "{moment:?}");
        }
        assert_eq!(stamp.to_string(), "2 3 9.000000000 9.990000000");
    }
}
