//! Whether a file may have come or gone in the directories that are watched: one stat(2) of each tells, instead of a scan.

use std::path::PathBuf;
use std::time::Instant;

use crate::settled::{DirectoryStamp, Settled};

/// The directories that the last scan has looked into.
#[derive(Default)]
pub struct WatchedDirectories {
    scanned: Vec<PathBuf>,
    settled: Settled<Vec<DirectoryStamp>>,
}

impl WatchedDirectories {
    /// Whether to scan now. Where nothing is known yet, or one of them is gone, that is so.
    pub fn must_scan(&mut self, now: Instant) -> bool {
        let stamps = self.scanned.iter().map(|directory| DirectoryStamp::of(directory)).collect::<Option<Vec<_>>>();
        self.settled.must_read(stamps.filter(|stamps| !stamps.is_empty()), now)
    }

    /// A scan has looked into these.
    pub fn on_scan(&mut self, directories: Vec<PathBuf>) {
        self.scanned = directories;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::walk_files::walk_files;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn watched_directory_is_scanned_again_only_if_it_has_changed() {
        let root = std::env::temp_dir().join(format!("litestream-watched-{}", std::process::id()));
        let below = root.join("below");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("a.db"), "").unwrap();
        let (begun, mut watched) = (Instant::now(), WatchedDirectories::default());
        let mut look = |seconds| {
            let must = watched.must_scan(begun + Duration::from_secs(seconds));
            if must {
                watched.on_scan(walk_files(&root, true).directories);
            }
            must
        };
        assert_eq!([0, 1, 2, 4, 5, 60].map(&mut look), [true, true, true, true, false, false]);
        // The clock of the file system ticks.
        let (before, end) = (DirectoryStamp::of(&below), Instant::now() + Duration::from_secs(30));
        while DirectoryStamp::of(&below) == before {
            assert!(Instant::now() < end);
            let _ = fs::remove_file(below.join("b.db"));
            fs::write(below.join("b.db"), "").unwrap();
        }
        assert_eq!([61, 62, 65, 66].map(&mut look), [true, true, true, false]);
        fs::remove_dir_all(&below).unwrap();
        assert!(look(67));
        fs::remove_dir_all(&root).unwrap();
    }
}
