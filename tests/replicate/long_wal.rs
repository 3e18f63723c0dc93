//! A WAL of more than 4 GiB, as one that a reader has kept from being started again for days.
//!
//! Nobody writes 4 GiB here: the wal-index is told that so many frames are committed and written back to the database
//! file, which nobody looks at again, and the -wal file has a hole in their place. All that follows is real: SQLite's own
//! commits, checkpoints and restarts, and what is copied of them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::support::{Bed, Process, Session, assert_equal};

const PAGE: u64 = 65_536;
/// Frames before the first real one. With one less than these, that one would begin before 4 GiB.
const BEFORE: u32 = 65_521;
/// 32-bit words of one of the two copies of the wal-index header (sqlite.org/walformat.html).
const WORDS: usize = 12;

fn behind(frame: u32) -> u64 {
    32 + u64::from(frame) * (24 + PAGE)
}

/// The two sums over the first ten words of the wal-index header.
fn sums(words: &[u32]) -> [u32; 2] {
    words[..10].chunks(2).fold([0, 0], |[a, b]: [u32; 2], pair| {
        let a = a.wrapping_add(pair[0]).wrapping_add(b);
        [a, b.wrapping_add(pair[1]).wrapping_add(a)]
    })
}

fn beside(database: &Path, end: &str) -> File {
    let path = format!("{}{end}", database.display());
    OpenOptions::new().read(true).write(true).open(path).expect("open a file beside the database")
}

/// Makes the WAL as long as if [`BEFORE`] frames were in it. All that is in it must be in the database file, with a reader
/// on the first mark, so that no writer begins it again.
fn lengthen(database: &Path) {
    let (index, wal) = (beside(database, "-shm"), beside(database, "-wal"));
    let mut bytes = [0; 4 * 34];
    index.read_exact_at(&mut bytes, 0).expect("read the wal-index");
    let mut words: Vec<u32> = bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    let (frames, backfilled, mark) = (words[4], words[24], words[26]);
    assert!(frames > 0 && (backfilled, mark) == (frames, frames), "{words:?}");
    // With its page: what changes it later is stored as the difference from it.
    let mut last = vec![0; 24 + PAGE as usize];
    wal.read_exact_at(&mut last, behind(frames - 1)).expect("read the last frame");
    wal.set_len(behind(BEFORE)).expect("lengthen the WAL");
    wal.write_all_at(&last, behind(BEFORE - 1)).expect("write the last frame");
    words[4] = BEFORE;
    [words[10], words[11]] = sums(&words);
    let header: Vec<u32> = words[..WORDS].to_vec();
    words[WORDS..2 * WORDS].copy_from_slice(&header);
    // Written back, the mark of the reader, and what a checkpoint has begun to write back.
    (words[24], words[26], words[32]) = (BEFORE, BEFORE, BEFORE);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    index.write_all_at(&bytes, 0).expect("write the wal-index");
}

/// Where the newest stored segment ends.
fn stored_end(bed: &Bed) -> u64 {
    let newest = bed.objects("wal").pop().expect("a segment");
    let end = newest.rsplit('/').next().unwrap().split('-').nth(1).unwrap().split('.').nth(1).unwrap();
    u64::from_str_radix(end, 16).unwrap_or_else(|e| panic!("{newest}: {e}"))
}

fn insert(application: &mut Session) {
    application.sql("INSERT INTO t SELECT randomblob(90000) FROM json_each('[1,2,3]')");
}

fn continues(bed: &Bed, database: &Path) -> Process {
    let mut replicator = bed.replicate(database);
    replicator.says("msg=continuing");
    bed.converges(database);
    replicator
}

#[test]
fn wal_over_4_gib_is_replicated_continued_and_restarted() {
    let bed = Bed::directory("long-wal");
    let database = bed.path("a.db");
    let mut application = bed.session(&database);
    for statement in ["PRAGMA page_size = 65536", "PRAGMA journal_mode = WAL", "PRAGMA wal_autocheckpoint = 0"] {
        application.sql(statement);
    }
    application.sql("CREATE TABLE t (x)");
    insert(&mut application);
    let mut reader = bed.session(&database);
    reader.sql("BEGIN");
    reader.sql("SELECT count(*) FROM t");
    application.sql("PRAGMA wal_checkpoint(PASSIVE)");
    lengthen(&database);

    let replicator = bed.replicate(&database);
    bed.converges(&database);
    insert(&mut application);
    bed.converges(&database);
    let first = stored_end(&bed);
    assert!(first > behind(BEFORE) && behind(BEFORE) > 1 << 32, "{first}");
    replicator.kill();

    insert(&mut application);
    let replicator = continues(&bed, &database);
    assert!(stored_end(&bed) > first);
    // A snapshot that reads beyond 4 GiB what is not in the file.
    insert(&mut application);
    bed.run(&["snapshot", database.to_str().unwrap(), &bed.url()]).succeeded();
    bed.converges(&database);
    assert_eq!(bed.objects("snapshots").len(), 2);

    reader.sql("COMMIT");
    let answer = application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(answer.starts_with("(0,"), "{answer}");
    insert(&mut application);
    bed.converges(&database);
    assert!(stored_end(&bed) < 1 << 32, "the WAL was begun anew");
    replicator.stop();
    let replicator = continues(&bed, &database);
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
    assert_equal(&database, &bed.restored());
    bed.run(&["verify", &bed.url()]).succeeded();
    let room = beside(&database, "-wal").metadata().unwrap().blocks() * 512;
    assert!(room < 16 << 20, "{room} bytes");
}
