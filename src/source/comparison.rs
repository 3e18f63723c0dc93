//! The database compared, a piece at a time, with what all that was copied leads to.
//!
//! The pages are read in order, each as it is at the place that the copy has come to. From then on the checksum of those
//! that were read follows each frame that is copied, as that of the database does. When the last page is read, both are of
//! the same pages at the same commit. A page that was changed past SQLite, or that the disk gives back otherwise, tells:
//!
//! * While it is read before any other frame of it is copied, it is not what the checksum of the database counts.
//! * If a frame of it is copied first, what is in the file was its base. Then that was taken away from the checksum of the
//!   database, which had counted another page.
//! * If a page is changed after it was read, the next pass finds it.
//!
//! What must hold for the pages of a piece: the file has no frame after the place. All that is committed is copied when
//! the wal-index is looked at, so the pin, which began before that, keeps later frames out of the file until it moves; and
//! only this thread moves it. Nor may the WAL be restarted over the frames that are read: its salts are looked at again
//! after the reading. A piece of which that does not hold is read once more.
//!
//! It takes the memory of one checksum, and no read transaction of its own.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::error::Result;
use crate::source::Source;
use crate::source::bases::Bases;
use crate::source::compared_pages::ComparedPages;
use crate::source::wal_index::IndexHeader;

/// Bytes that are read at once: a fraction of what the slowest card reads in a second, and less than a thousandth of a core.
pub const READ_BYTES: usize = 1 << 20;
/// Between two pieces, of all databases of a process.
pub const PIECE_INTERVAL: Duration = Duration::from_secs(1);
/// The part of a piece that is read where something was committed since the last one.
pub const BUSY_SHARE: usize = 4;

/// How far a comparison has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// It cannot go on now: something is committed that is not copied, or it is not known what the database should be.
    Waiting,
    /// There is more to read.
    Going,
    /// The database is what it should be. The next call starts again.
    Equal,
    Differs,
}

impl Source {
    /// Compares the next pages of the database, as many as `buffer` has room for, with what was copied. One that has come to
    /// its end says so once.
    pub fn compare(&mut self, buffer: &mut [u8]) -> Result<Comparison> {
        let header = self.header()?;
        // Where another file was copied over this one, the next look says so, and lets go of it.
        if !self.pins.is_held() || !self.is_copied(&header) || self.file_watch.is_suspect() {
            return Ok(Comparison::Waiting);
        }
        if header.salt != self.copied.position.chain.salt() {
            // The WAL was emptied since the last frame was copied: the file has all of it.
            self.content.bases.iter_mut().for_each(Bases::restart);
        }
        let (Some(bases), Some(files)) = (&self.content.bases, self.page_files()) else {
            return Ok(Comparison::Waiting);
        };
        let (Some(expected), extent) = (bases.sum(), bases.extent()) else { return Ok(Comparison::Waiting) };
        let mut read = bases.compared().0;
        let size = self.copied.position.page_size.get() as usize;
        let count = (buffer.len() / size).min((extent - read.extent()) as usize);
        let pages = &mut buffer[..count * size];
        let whole = files.pages(bases.pages(), read.extent() + 1, pages)?;
        if !whole || !self.is_unmoved(&header) {
            return Ok(Comparison::Waiting);
        }
        pages.chunks_exact(size).for_each(|page| read.push(page));
        let over = read.extent() >= extent;
        let next = if over { ComparedPages::new(self.copied.position.page_size) } else { ComparedPages(read) };
        self.content.bases.iter_mut().for_each(|bases| bases.set_compared(next));
        Ok(match over {
            false => Comparison::Going,
            true if read.sum() == expected => Comparison::Equal,
            true => Comparison::Differs,
        })
    }

    /// Whether no frame after those that `header` tells of is in the file, and the WAL is still the same.
    fn is_unmoved(&self, header: &IndexHeader) -> bool {
        fence(Ordering::SeqCst);
        let progress = self.files.index.progress();
        progress.salt == header.salt && progress.attempted.max(progress.backfilled) <= header.frames
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use super::*;
    use crate::source::border::tests::{copied, known, run};
    use crate::source::tests::Live;

    const FILL: &str = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<200)
        INSERT INTO t SELECT randomblob(700) FROM n;";

    fn settle(source: &mut Source) {
        (0..4).for_each(|_| source.finish_round(Instant::now()).map(|_| ()).unwrap());
    }

    /// Reads so many pieces of three pages.
    fn pieces(source: &mut Source, count: usize) -> Vec<Comparison> {
        let mut buffer = vec![0; 3 * source.page_size().get() as usize];
        (0..count).map(|_| source.compare(&mut buffer).unwrap()).collect()
    }

    /// The end of this pass, and of the next one.
    fn two_passes(source: &mut Source) -> Vec<Comparison> {
        let all = pieces(source, 200);
        assert!(!all.contains(&Comparison::Waiting));
        all.into_iter().filter(|found| *found != Comparison::Going).take(2).collect()
    }

    #[test]
    fn comparison_holds_while_the_database_is_written() {
        let live = Live::new("compared");
        // A checkpoint that has to wait for the pin does not.
        run(&live, "PRAGMA synchronous = OFF; PRAGMA busy_timeout = 0;");
        let mut source = known(&live);
        let checkpoint = |kind: &str| format!("PRAGMA wal_checkpoint({kind});");
        let steps = [
            FILL.to_string(),
            "UPDATE t SET a = zeroblob(9) WHERE rowid % 3 = 0;".to_string(),
            checkpoint("PASSIVE"),
            "UPDATE t SET a = 7 WHERE rowid % 5 = 0;".to_string(),
            format!("BEGIN; {FILL} ROLLBACK; INSERT INTO t VALUES(3);"),
            "DELETE FROM t WHERE rowid > 20; VACUUM;".to_string(),
            FILL.to_string(),
            "DELETE FROM t WHERE rowid > 5; VACUUM;".to_string() + FILL,
            checkpoint("PASSIVE"),
            checkpoint("RESTART"),
            "UPDATE t SET a = randomblob(700) WHERE rowid % 2 = 0;".to_string(),
            checkpoint("PASSIVE"),
            checkpoint("TRUNCATE"),
            FILL.to_string(),
        ];
        for pace in [1, 4, 40] {
            let mut found = Vec::new();
            for sql in steps.iter().chain(&steps) {
                run(&live, sql);
                copied(&mut source);
                settle(&mut source);
                found.extend(pieces(&mut source, pace));
            }
            found.extend(pieces(&mut source, 150));
            assert!(found.contains(&Comparison::Equal), "{pace}: {found:?}");
            let wrong = found.iter().position(|found| !matches!(found, Comparison::Going | Comparison::Equal));
            assert_eq!(wrong, None, "{pace}: {found:?}");
        }
    }

    /// The reader is before the page or past it, and the next commit writes the page, or another one.
    #[test]
    fn byte_changed_without_sqlite_is_found_anywhere() {
        for (page, done, write) in
            [5, 20, 40].into_iter().flat_map(|page| [0, 4, 12].map(|done| (page, done))).flat_map(|(page, done)| {
                ["SELECT 1", "UPDATE t SET a = randomblob(700)", "REPLACE INTO t(rowid, a) VALUES (1, 2)"]
                    .map(|write| (page, done, write))
            })
        {
            let live = Live::new(&format!("flipped-{page}-{done}-{}", write.len()));
            run(&live, FILL);
            run(&live, "PRAGMA wal_checkpoint(TRUNCATE);");
            // Closed after the source: closing it drops all locks on the file.
            let file = File::options().read(true).write(true).open(&live.path).unwrap();
            let mut source = known(&live);
            settle(&mut source);
            assert!(pieces(&mut source, done).iter().all(|found| *found == Comparison::Going));
            let (mut byte, at) = ([0], (page - 1) * 4096 + 2000);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 16], at).unwrap();
            run(&live, write);
            copied(&mut source);
            settle(&mut source);
            let found = two_passes(&mut source);
            assert!(found.contains(&Comparison::Differs), "page {page}, piece {done}, {write}: {found:?}");
        }
    }

    #[test]
    fn nothing_is_compared_that_is_not_copied_or_not_known() {
        let live = Live::new("waiting");
        let mut source = live.follow();
        assert_eq!(pieces(&mut source, 1), [Comparison::Waiting], "nothing is stored");
        drop(source);
        let mut source = known(&live);
        assert_eq!(pieces(&mut source, 1), [Comparison::Equal]);
        live.commit();
        assert_eq!(pieces(&mut source, 1), [Comparison::Waiting]);
        copied(&mut source);
        assert_eq!(pieces(&mut source, 1), [Comparison::Equal]);
    }
}
