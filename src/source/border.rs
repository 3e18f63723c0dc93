//! From which commits on the pages of a database are known, with its checksum: those of snapshots, at which batches are cut.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::source::Source;
use crate::source::bases::Bases;
use crate::source::borders::{Border, ReachedBorder, SnapshotHandle};
use crate::source::wal_pages::{PageFiles, WalPages};

/// A pin that begins after the place would let a checkpoint write what is not copied yet into the database file: so often in
/// a row the next round is to try again. After that an application's checkpoint has waited long enough.
const MAX_OVERTAKEN_PINS: u8 = 8;

impl Source {
    /// The checksum of the database at the place; none where it is not known.
    pub fn checksum(&self) -> Option<DatabaseChecksum> {
        self.content.bases.as_ref().and_then(Bases::sum)
    }

    /// Whether the checksum is kept up once it is known.
    pub fn keeps_checksum(&self) -> bool {
        self.options.differences
    }

    /// This snapshot has this checksum. False if it is another than what was copied leads to: then something has written
    /// to the database past SQLite.
    pub fn agrees_with_snapshot(&mut self, snapshot: &SnapshotHandle, sum: DatabaseChecksum) -> bool {
        let reached = self.content.borders.find(snapshot).and_then(|border| border.reached.as_ref());
        reached.and_then(|reached| reached.expected).is_none_or(|expected| expected == sum)
    }

    /// This snapshot has this checksum, and a restore will begin with it or with a later one: what follows can be said in
    /// differences.
    pub fn trust_snapshot(&mut self, snapshot: &SnapshotHandle, sum: DatabaseChecksum) {
        let begun = self.content.borders.begun;
        let Some(border) = self.content.borders.find(snapshot) else { return };
        border.stored = Some(sum);
        let counted = border.reached.as_ref().and_then(|reached| reached.counted);
        if let (Some((_, before)), Some(bases)) =
            (counted.filter(|(which, _)| *which == begun), &mut self.content.bases)
        {
            bases.begun_at(DatabaseChecksum::new(sum.get().wrapping_sub(before.get())));
        }
        self.content.borders.prune();
    }

    /// Whether the copy is past this snapshot, which is to be relied on.
    pub fn is_behind_snapshot(&mut self, snapshot: &SnapshotHandle) -> bool {
        self.content.borders.find(snapshot).is_none()
    }

    /// At a border, what follows begins to be counted.
    pub(super) fn reach_borders(&mut self) -> Result<()> {
        self.content.borders.prune();
        let place = (self.copied.position.chain.salt(), self.copied.position.frame);
        let here = |border: &Border| border.reached.is_none() && (border.mark.salt, border.mark.frame) == place;
        while let Some(at) = self.content.borders.list.iter().position(here) {
            self.reach_border(at)?;
        }
        self.content.borders.prune();
        Ok(())
    }

    fn reach_border(&mut self, at: usize) -> Result<()> {
        let expected = self.checksum();
        let Some(border) = self.content.borders.list.get_mut(at) else { return Ok(()) };
        let (stored, pages) = (border.stored, border.pages);
        let blank = std::mem::take(&mut border.blank);
        border.reached = Some(ReachedBorder { expected, counted: None });
        match (&mut self.content.bases, expected, stored) {
            (_, Some(known), Some(stored)) => self.content.differs |= known != stored,
            (Some(bases), None, Some(stored)) => {
                let before = bases.counted();
                bases.begun_at(DatabaseChecksum::new(stored.get().wrapping_sub(before.get())));
            }
            (Some(_), ..) => {}
            (None, ..) => {
                self.content.borders.begun += 1;
                self.begin_bases(stored, pages, blank)?;
            }
        }
        let counted = self.content.bases.as_ref().map(|bases| (self.content.borders.begun, bases.counted()));
        if let Some(reached) = self.content.borders.list.get_mut(at).and_then(|border| border.reached.as_mut()) {
            reached.counted = counted;
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
        let size = self.copied.position.page_size;
        // A WAL that was restarted, or is about to be, had all its frames in the file.
        let over = self.files.index.progress().salt != self.copied.position.chain.salt();
        let found = match self.page_files() {
            _ if over || self.copied.position.frame == 0 => Some(WalPages::default()),
            Some(files) => files.wal_pages(WalPages::default(), 0, self.copied.position.frame)?,
            None => None,
        };
        self.content.bases = found.map(|found| Bases::new(size, sum, pages, found.at(pages, blank)));
        Ok(())
    }

    /// Where pages are read from; none without a WAL.
    pub(super) fn page_files(&self) -> Option<PageFiles<'_>> {
        let wal = self.files.wal.as_ref()?;
        let (page_size, salt) = (self.copied.position.page_size, self.copied.position.chain.salt());
        Some(PageFiles { wal, index: &self.files.index, connection: self.pins.idle_connection(), page_size, salt })
    }

    /// Whether something was committed between the last copy and the next pin, so that this had better begin again.
    pub(super) fn is_overtaken(&mut self) -> Result<bool> {
        if self.content.bases.is_none() || self.pin.overtaken >= MAX_OVERTAKEN_PINS {
            return Ok(false);
        }
        let now = self.header()?;
        let overtaken = !self.is_copied(&now);
        self.pin.overtaken += u8::from(overtaken);
        Ok(overtaken)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use super::*;
    use crate::format::differences::Composer;
    use crate::format::running_checksum::RunningChecksum;
    use crate::source::tests::Live;
    use crate::source::{GenerationEnd, Proof, ReadResult, StateCheck, WalMark};

    /// Copies what there is; whether all of it could be said in differences, or none.
    pub(in crate::source) fn copied(source: &mut Source) -> Option<bool> {
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
    pub(in crate::source) fn snapshot_of(source: &mut Source) -> (DatabaseChecksum, u32, SnapshotHandle) {
        let mut snapshot = source.snapshot(&std::env::temp_dir()).unwrap().unwrap();
        let mut page = vec![0; snapshot.mark().page_size.get() as usize];
        let mut running = RunningChecksum::new(snapshot.mark().page_size);
        while snapshot.read(&mut page).unwrap() > 0 {
            running.push(&page);
        }
        (running.sum(), snapshot.pages(), snapshot.handle().clone())
    }

    pub(in crate::source) fn known(live: &Live) -> Source {
        let mut source = live.follow();
        let (sum, _, snapshot) = snapshot_of(&mut source);
        source.trust_snapshot(&snapshot, sum);
        assert_eq!(source.checksum(), Some(sum));
        source
    }

    pub(in crate::source) fn run(live: &Live, sql: &str) {
        live.application.execute_batch(sql).unwrap();
    }

    #[test]
    fn database_checksum_follows_everything_applications_do() {
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
            let (sum, _, snapshot) = snapshot_of(&mut source);
            assert_eq!(source.checksum(), Some(sum), "step {step}: {sql}");
            assert!(source.agrees_with_snapshot(&snapshot, sum));
            assert!(!source.agrees_with_snapshot(&snapshot, DatabaseChecksum::new(sum.get() + 1)));
        }
    }

    #[test]
    fn nothing_is_said_in_differences_before_a_snapshot_is_stored() {
        let live = Live::new("before");
        let mut source = live.follow();
        live.commit();
        assert_eq!(copied(&mut source), Some(false));
        let (sum, _, snapshot) = snapshot_of(&mut source);
        live.commit();
        assert_eq!(copied(&mut source), Some(false));
        source.trust_snapshot(&snapshot, sum);
        live.commit();
        assert_eq!(copied(&mut source), Some(true));
        assert_eq!(source.checksum(), Some(snapshot_of(&mut source).0));
    }

    /// The snapshot is of a commit that is not copied yet: it is stored before that, or after it.
    #[test]
    fn snapshot_ahead_of_the_copy_splits_the_batch() {
        for stored_first in [true, false] {
            let live = Live::new("ahead");
            let mut source = live.follow();
            (0..3).for_each(|_| live.commit());
            let (sum, _, snapshot) = snapshot_of(&mut source);
            (0..3).for_each(|_| live.commit());
            if stored_first {
                source.trust_snapshot(&snapshot, sum);
            }
            let (mut buffer, mut composer, mut batches) = (vec![0; 1 << 20], Composer::default(), Vec::new());
            while let ReadResult::Batch(batch) = source.read(&mut buffer, &mut composer).unwrap() {
                batches.push((batch.frames.len() / batch.start.page_size.frame(), batch.checksum.is_some()));
            }
            assert_eq!(batches, [(3, false), (3, stored_first)]);
            source.trust_snapshot(&snapshot, sum);
            assert_eq!(source.checksum(), Some(snapshot_of(&mut source).0));
        }
    }

    /// The later snapshot is stored first, or the first one comes to nothing: the checksum follows from either.
    #[test]
    fn of_two_snapshots_either_tells_the_checksum() {
        for (which, gone) in [(0, false), (1, false), (1, true)] {
            let live = Live::new("two");
            let mut source = live.follow();
            let first = snapshot_of(&mut source);
            live.commit();
            assert_eq!(copied(&mut source), Some(false));
            let second = snapshot_of(&mut source);
            run(&live, "INSERT INTO t VALUES(randomblob(9000));");
            assert_eq!(copied(&mut source), Some(false));
            let (sum, _, snapshot) = if which == 0 { first.clone() } else { second.clone() };
            if gone {
                drop(first);
            }
            source.trust_snapshot(&snapshot, sum);
            assert!(source.is_behind_snapshot(&snapshot));
            live.commit();
            assert_eq!(copied(&mut source), Some(true), "{which} {gone}");
            assert_eq!(source.checksum(), Some(snapshot_of(&mut source).0), "{which} {gone}");
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
    fn start_knows_old_pages_only_if_they_match_the_backup() {
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

    /// Of a source that goes on after `mark`.
    fn proof_at(live: &Live, mark: &WalMark, pages: u32, sum: DatabaseChecksum) -> Proof {
        let mut source = live.follow();
        assert_eq!(source.resume(mark).unwrap(), Ok(()));
        prove(&mut source, pages, sum)
    }

    #[test]
    fn change_without_sqlite_is_found_at_startup() {
        let live = Live::new("free");
        let rows = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<40)";
        run(&live, &format!("{rows} INSERT INTO t SELECT randomblob(3000) FROM n; DELETE FROM t WHERE rowid > 9;"));
        run(&live, "PRAGMA wal_checkpoint(TRUNCATE);");
        let file = File::options().read(true).write(true).open(&live.path).unwrap();
        let mut source = known(&live);
        live.commit();
        copied(&mut source);
        let (mark, sum, pages) =
            (source.copied.position.mark(), source.checksum().unwrap(), snapshot_of(&mut source).1);
        drop(source);
        assert_eq!(proof_at(&live, &mark, pages, sum), Proof::Equal);
        // A page that has a frame is read from there, whatever a checkpoint has done with what followed.
        live.commit();
        run(&live, "PRAGMA wal_checkpoint(PASSIVE);");
        assert_eq!(proof_at(&live, &mark, pages, sum), Proof::Equal);
        file.write_all_at(&[1; 9], 7 * 4096 + 2000).unwrap();
        assert_eq!(proof_at(&live, &mark, pages, sum), Proof::Differs);
    }

    /// The first pin is on READ0, which keeps nobody from restarting the WAL over the frames that are being read.
    #[test]
    fn start_gives_up_pages_if_the_wal_restarts_meanwhile() {
        let live = Live::new("anew");
        run(&live, "INSERT INTO t SELECT randomblob(3000) FROM (VALUES(1),(2),(3),(4),(5),(6),(7),(8));");
        let mut source = known(&live);
        let (mark, sum, pages) = (source.start(), source.checksum().unwrap(), snapshot_of(&mut source).1);
        drop(source);
        live.commit();
        run(&live, "PRAGMA wal_checkpoint(PASSIVE);");
        let mut source = live.follow();
        assert_eq!(source.resume(&mark).unwrap(), Ok(()));
        let (mut check, mut buffer) = (StateCheck::new(pages, sum), vec![0; 3 * 4096]);
        assert_eq!(source.prove(&mut check, &mut buffer).unwrap(), None);
        run(&live, "UPDATE t SET a = randomblob(3000);");
        let proof = loop {
            if let Some(proof) = source.prove(&mut check, &mut buffer).unwrap() {
                break proof;
            }
        };
        assert_eq!((proof, source.checksum()), (Proof::Unknown, None));
        let read = source.read(&mut buffer, &mut Composer::default()).unwrap();
        assert!(matches!(read, ReadResult::Broken(GenerationEnd::WalRestartedWhileNotRunning)), "{read:?}");
    }

    #[test]
    fn pages_overwritten_by_an_unseen_checkpoint_are_unknown() {
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
        let (sum, _, snapshot) = snapshot_of(&mut source);
        source.trust_snapshot(&snapshot, sum);
        live.commit();
        assert_eq!(copied(&mut source), Some(true), "from the next snapshot on");
    }
}
