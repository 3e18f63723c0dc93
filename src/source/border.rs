//! From which commit on the pages of a database are known, with its checksum: that of a snapshot, at which batches are cut.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::source::Source;
use crate::source::bases::{Bases, Files, WalPages};
use crate::source::resume::WalMark;

/// A pin that begins behind the place would let a checkpoint write what is not copied yet into the database file: so often in
/// a row the next round is to try again. After that an application's checkpoint has waited long enough.
const OVERTAKEN: u8 = 8;

/// The commit of the last snapshot, which a batch must not span: what it changes could not be applied from there.
pub(super) struct Border {
    pub(super) mark: WalMark,
    pages: u32,
    /// The pages that hold zeros in the snapshot, whatever the files have there.
    blank: BTreeSet<u32>,
    /// It is copied to.
    reached: bool,
    /// The checksum to which all that was copied leads there.
    expected: Option<DatabaseChecksum>,
    /// That of the snapshot, once it is stored.
    stored: Option<DatabaseChecksum>,
}

impl Border {
    /// Nothing is known of it yet.
    pub(super) fn new(mark: WalMark, pages: u32, blank: BTreeSet<u32>) -> Border {
        Border { mark, pages, blank, reached: false, expected: None, stored: None }
    }
}

impl Source {
    /// The checksum of the database at the place; none where it is not known.
    pub fn checksum(&self) -> Option<DatabaseChecksum> {
        self.bases.as_ref().and_then(Bases::sum)
    }

    /// The snapshot that was begun last has this checksum. False if it is another than what was copied leads to: then
    /// something has written to the database past SQLite.
    pub fn agrees_with_snapshot(&self, sum: DatabaseChecksum) -> bool {
        self.border.as_ref().and_then(|border| border.expected).is_none_or(|expected| expected == sum)
    }

    /// The snapshot that was begun last has this checksum, and a restore will begin with it or with a later one: what follows
    /// can be said in differences.
    pub fn trust_snapshot(&mut self, sum: DatabaseChecksum) {
        let Some(border) = &mut self.border else { return };
        border.stored = Some(sum);
        if let (true, Some(bases)) = (border.reached, &mut self.bases) {
            bases.begun_at(sum);
        }
    }

    /// At the border, what follows begins to be counted.
    pub(super) fn reach_border(&mut self) -> Result<()> {
        let place = (self.position.chain.salt(), self.position.frame);
        let known = self.checksum();
        let Some(border) = &mut self.border else { return Ok(()) };
        if border.reached || (border.mark.salt, border.mark.frame) != place {
            return Ok(());
        }
        (border.reached, border.expected) = (true, known);
        let (stored, pages) = (border.stored, border.pages);
        match (known, stored) {
            (Some(known), Some(stored)) => self.differs |= known != stored,
            (Some(_), None) => {}
            (None, _) => {
                let blank = std::mem::take(&mut border.blank);
                self.begin_bases(stored, pages, blank)?;
            }
        }
        Ok(())
    }

    /// From this place on, a database of so many pages, the pages before a frame are known.
    pub(super) fn begin_bases(
        &mut self,
        sum: Option<DatabaseChecksum>,
        pages: u32,
        blank: BTreeSet<u32>,
    ) -> Result<()> {
        if !self.options.differences {
            return Ok(());
        }
        let size = self.position.page_size;
        // A WAL that was begun anew, or is about to be, had all its frames in the file.
        let over = self.index.progress().salt != self.position.chain.salt();
        let found = match self.files() {
            _ if over || self.position.frame == 0 => Some(WalPages::default()),
            Some(files) => files.wal_pages(WalPages::default(), 0, self.position.frame)?,
            None => None,
        };
        self.bases = found.map(|found| Bases::new(size, sum, pages, found.newest, blank));
        Ok(())
    }

    /// Where pages are read from; none without a WAL.
    pub(super) fn files(&self) -> Option<Files<'_>> {
        let wal = self.wal.as_ref()?;
        let (page_size, salt) = (self.position.page_size, self.position.chain.salt());
        Some(Files { wal, index: &self.index, connection: self.pins.idle_connection(), page_size, salt })
    }

    /// Whether something was committed between the last copy and the next pin, so that this had better begin again.
    pub(super) fn is_overtaken(&mut self) -> Result<bool> {
        if self.bases.is_none() || self.overtaken >= OVERTAKEN {
            return Ok(false);
        }
        let now = self.header()?;
        let overtaken = !self.is_copied(&now);
        self.overtaken += u8::from(overtaken);
        Ok(overtaken)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::format::differences::Composer;
    use crate::format::running_checksum::RunningChecksum;
    use crate::source::tests::Live;
    use crate::source::{Proof, ReadResult, StateCheck};

    /// Copies what there is; whether all of it could be said in differences, or none.
    fn copied(source: &mut Source) -> Option<bool> {
        let (mut buffer, mut composer, mut found) = (vec![0; 1 << 20], Composer::default(), Vec::new());
        loop {
            match source.read(&mut buffer, &mut composer).unwrap() {
                ReadResult::CaughtUp => break,
                ReadResult::Batch(batch) => found.push(batch.checksum.is_some()),
                ReadResult::Broken(reason) => panic!("{reason}"),
            }
        }
        source.finish_round(Instant::now()).unwrap();
        let first = *found.first()?;
        assert!(found.iter().all(|one| *one == first), "{found:?}");
        Some(first)
    }

    /// The checksum and the size of the database, as a snapshot reads it.
    fn snapshot_of(source: &mut Source) -> (DatabaseChecksum, u32) {
        let mut snapshot = source.snapshot(&std::env::temp_dir()).unwrap().unwrap();
        let mut page = vec![0; snapshot.mark().page_size.get() as usize];
        let mut running = RunningChecksum::new(snapshot.mark().page_size);
        while snapshot.read(&mut page).unwrap() > 0 {
            running.push(&page);
        }
        (running.sum(), snapshot.pages())
    }

    fn known(live: &Live) -> Source {
        let mut source = live.follow();
        let (sum, _) = snapshot_of(&mut source);
        source.trust_snapshot(sum);
        assert_eq!(source.checksum(), Some(sum));
        source
    }

    fn run(live: &Live, sql: &str) {
        live.application.execute_batch(sql).unwrap();
    }

    #[test]
    fn the_checksum_follows_the_database_through_all_that_applications_do() {
        let live = Live::new("followed");
        let mut source = known(&live);
        let fill = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<400)
                    INSERT INTO t SELECT randomblob(700) FROM n;";
        let checkpoint = |kind: &str| format!("PRAGMA wal_checkpoint({kind});");
        let steps = [
            "INSERT INTO t VALUES(1);".to_string(),
            fill.to_string(),
            "UPDATE t SET a = zeroblob(9) WHERE rowid % 3 = 0;".to_string(),
            checkpoint("PASSIVE"),
            "UPDATE t SET a = 7 WHERE rowid % 5 = 0;".to_string(),
            format!("BEGIN; {fill} ROLLBACK; INSERT INTO t VALUES(3);"),
            "DELETE FROM t WHERE rowid > 20; VACUUM;".to_string(),
            fill.to_string(),
            "DELETE FROM t WHERE rowid > 5; VACUUM;".to_string() + fill,
            checkpoint("RESTART"),
            "INSERT INTO t VALUES(4);".to_string(),
            checkpoint("TRUNCATE"),
            fill.to_string(),
        ];
        for (step, sql) in steps.iter().enumerate() {
            let settled =
                |source: &mut Source| (0..4).for_each(|_| source.finish_round(Instant::now()).map(|_| ()).unwrap());
            run(&live, sql);
            assert_ne!(copied(&mut source), Some(false), "step {step}");
            settled(&mut source);
            let (sum, _) = snapshot_of(&mut source);
            assert_eq!(source.checksum(), Some(sum), "step {step}: {sql}");
            assert!(source.agrees_with_snapshot(sum));
            assert!(!source.agrees_with_snapshot(DatabaseChecksum::new(sum.get() + 1)));
        }
    }

    #[test]
    fn nothing_is_said_in_differences_before_a_snapshot_is_stored() {
        let live = Live::new("before");
        let mut source = live.follow();
        live.commit();
        assert_eq!(copied(&mut source), Some(false));
        let (sum, _) = snapshot_of(&mut source);
        live.commit();
        assert_eq!(copied(&mut source), Some(false));
        source.trust_snapshot(sum);
        live.commit();
        assert_eq!(copied(&mut source), Some(true));
        assert_eq!(source.checksum(), Some(snapshot_of(&mut source).0));
    }

    /// The snapshot is of a commit that is not copied yet: it is stored before that, or behind it.
    #[test]
    fn a_snapshot_ahead_of_the_copy_cuts_a_batch_and_begins_what_follows() {
        for stored_first in [true, false] {
            let live = Live::new("ahead");
            let mut source = live.follow();
            (0..3).for_each(|_| live.commit());
            let (sum, _) = snapshot_of(&mut source);
            (0..3).for_each(|_| live.commit());
            if stored_first {
                source.trust_snapshot(sum);
            }
            let (mut buffer, mut composer, mut batches) = (vec![0; 1 << 20], Composer::default(), Vec::new());
            while let ReadResult::Batch(batch) = source.read(&mut buffer, &mut composer).unwrap() {
                batches.push((batch.frames.len() / batch.start.page_size.frame(), batch.checksum.is_some()));
            }
            assert_eq!(batches, [(3, false), (3, stored_first)]);
            source.trust_snapshot(sum);
            assert_eq!(source.checksum(), Some(snapshot_of(&mut source).0));
        }
    }

    fn prove(source: &mut Source, pages: u32, sum: DatabaseChecksum) -> Proof {
        let mut check = StateCheck::new(pages, sum);
        let mut buffer = vec![0; 3 * source.page_size().get() as usize];
        loop {
            if let Some(proof) = source.prove(&mut check, &mut buffer).unwrap() {
                return proof;
            }
        }
    }

    #[test]
    fn a_start_knows_the_pages_of_the_stored_commit_only_if_they_are_what_is_stored() {
        let live = Live::new("proven");
        run(&live, "INSERT INTO t SELECT randomblob(3000) FROM (VALUES(1),(2),(3),(4),(5),(6),(7),(8));");
        let mut source = known(&live);
        let (mark, sum) = (source.start(), source.checksum().unwrap());
        let pages = snapshot_of(&mut source).1;
        drop(source);
        // Commits that nobody saw, of one page that is in the WAL already, and of others that are not.
        let later = ["SELECT 1;", "REPLACE INTO t(rowid, a) VALUES (1, 2);", "INSERT INTO t VALUES(randomblob(9000));"];
        for (at, sql) in later.into_iter().enumerate() {
            run(&live, sql);
            let mut source = live.follow();
            assert_eq!(source.resume(&mark).unwrap(), Ok(()));
            assert_eq!(prove(&mut source, pages, DatabaseChecksum::new(sum.get() ^ 1)), Proof::Differs);
            assert_eq!(prove(&mut source, pages, sum), Proof::Equal);
            assert_ne!(copied(&mut source), Some(false), "{at}");
            assert_eq!(source.checksum(), Some(snapshot_of(&mut source).0), "{at}");
        }
    }

    #[test]
    fn what_a_checkpoint_wrote_over_while_nobody_watched_is_not_guessed() {
        let live = Live::new("unknown");
        run(&live, "INSERT INTO t SELECT randomblob(3000) FROM (VALUES(1),(2),(3),(4));");
        run(&live, "PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES(1);");
        let mut source = known(&live);
        let (mark, sum, pages) = (source.start(), source.checksum().unwrap(), snapshot_of(&mut source).1);
        drop(source);
        run(&live, "UPDATE t SET a = a || 'x'; PRAGMA wal_checkpoint(PASSIVE);");
        let mut source = live.follow();
        assert_eq!(source.resume(&mark).unwrap(), Ok(()));
        assert_eq!(prove(&mut source, pages, sum), Proof::Unknown);
        assert_eq!((copied(&mut source), source.checksum()), (Some(false), None));
        let (sum, _) = snapshot_of(&mut source);
        source.trust_snapshot(sum);
        live.commit();
        assert_eq!(copied(&mut source), Some(true), "from the next snapshot on");
    }
}
