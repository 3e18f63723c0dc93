//! A backup can be restored with no tool of ours: the page of Python in litestream-format(5) does it, on objects made
//! from a database and WALs of real SQLite. The tables of that page hold the numbers of the code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::python;
use litestream::format::brief_header;
use litestream::format::compose::Composition;
use litestream::format::database_checksum::DatabaseChecksum;
use litestream::format::deflate_blocks::{Block, BlockCompressor};
use litestream::format::differences::Composer;
use litestream::format::key::Key;
use litestream::format::member_header::{
    FLAG_BEGINS, FLAG_BIG_ENDIAN, FLAG_DATABASE_CHECKSUM, FLAG_PART, FLAG_UNCHECKSUMMED, FLAG_WAL_UNKNOWN,
    FORMAT_VERSION, Field, HEADER_BYTES, MemberKind, ROLLUP, WITH_DIFFERENCES, WITH_SUBFIELDS,
};
use litestream::format::position::{Generation, Offset, PageSize, WalPosition};
use litestream::format::rollup::{self, RollupEncoder};
use litestream::format::running_checksum::RunningChecksum;
use litestream::format::segment::{self, Differences, MemberHeader, SegmentEncoder};
use litestream::format::snapshot::{self, SnapshotEncoder, SnapshotHeader};
use litestream::format::time::Timestamp;
use litestream::format::wal::{
    ByteOrder, Checksum, FRAME_HEADER, FrameChecksum, FrameHeader, Salt, WAL_HEADER, WalHeader,
};

const PAGE: &str = include_str!("../../man/litestream-format.5");

/// The lines of the manual between `.\" begin: what` and `.\" end: what`.
fn marked(what: &str) -> Vec<&'static str> {
    let (begin, end) = (format!(".\\\" begin: {what}"), format!(".\\\" end: {what}"));
    let lines = PAGE.lines().skip_while(|line| *line != begin).skip(1).take_while(|line| *line != end);
    let lines: Vec<_> = lines.collect();
    assert!(!lines.is_empty(), "{what}");
    lines
}

/// The page of Python, as a reader of the manual sees it.
fn script() -> String {
    let lines = marked("restore.py");
    let [first, body @ .., last] = lines.as_slice() else { panic!("an empty block") };
    assert_eq!((*first, *last), (".Bd -literal", ".Ed"));
    let lines = body.iter().map(|line| line.replace("\\-", "-").replace("\\e", "\\") + "\n");
    lines.collect()
}

#[test]
fn the_tables_of_the_manual_are_the_layout_of_the_code() {
    for (table, fields) in [
        ("segment fields", &segment::FIELDS[..]),
        ("segment fields of version 2", &brief_header::FIELDS[..]),
        ("rollup fields", &rollup::FIELDS[..]),
        ("snapshot fields", &snapshot::FIELDS[..]),
    ] {
        let rows: Vec<Vec<&str>> = marked(table)
            .iter()
            .map(|line| line.trim_start_matches(".It ").split(" Ta").map(str::trim).collect())
            .collect();
        let told: Vec<_> = rows.iter().map(|row| row[..3].join(",")).collect();
        let coded: Vec<_> = fields.iter().map(|Field { at, size, name }| format!("{at},{size},{name}")).collect();
        assert_eq!(told, coded, "{table}");
        let value = |name: &str| rows.iter().find(|row| row[2] == name).map(|row| row[3]);
        let kind = if !table.starts_with("snapshot") { MemberKind::Batch } else { MemberKind::Snapshot };
        let versions = match table {
            "segment fields" => format!("{FORMAT_VERSION}; versions {WITH_DIFFERENCES} and {ROLLUP} are below"),
            "rollup fields" => ROLLUP.to_string(),
            "snapshot fields" => format!("{FORMAT_VERSION}, or {WITH_SUBFIELDS} with the origin below"),
            _ => WITH_DIFFERENCES.to_string(),
        };
        assert_eq!(value("version"), Some(versions.as_str()));
        assert_eq!(value("kind"), Some((kind as u8).to_string().as_str()));
    }
}

#[test]
fn the_flags_of_the_manual_are_those_of_the_code() {
    assert_eq!(HEADER_BYTES, 16);
    assert!(PAGE.contains(".It 16 Ta Ta the fields"));
    for (flag, meaning) in [
        (FLAG_BIG_ENDIAN, "the WAL checksums treat the WAL as big-endian words"),
        (FLAG_PART, "a part: the last frame does not end a transaction"),
        (FLAG_UNCHECKSUMMED, "the chain of checksums is broken,"),
        (FLAG_WAL_UNKNOWN, "a snapshot of a database whose WAL had no header yet"),
        (FLAG_BEGINS, "in a member of version 2: its frames are the first ones of their WAL"),
        (FLAG_DATABASE_CHECKSUM, "a snapshot with the subfield that holds its database checksum"),
    ] {
        assert!(PAGE.contains(&format!(".It {flag} Ta {meaning}")), "{meaning}");
    }
}

/// Makes base.db, 0.wal, 1.wal and final.db: a database, two WALs that continue it, and what becomes of it.
const MAKE: &str = r#"
import random, shutil, sqlite3
random.seed(1)
c = sqlite3.connect("live.db", isolation_level=None)
def copy(of, to):
    shutil.copy("live.db" + of, to)
def row():
    return (random.randbytes(random.randrange(900)),)
c.execute("PRAGMA page_size=1024")
c.execute("PRAGMA journal_mode=wal")
c.execute("PRAGMA wal_autocheckpoint=0")
c.execute("CREATE TABLE t(x)")
c.execute("INSERT INTO t VALUES('base')")
c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
copy("", "base.db")
for i in range(20):
    c.execute("INSERT INTO t VALUES(?)", row())
c.execute("BEGIN")
c.executemany("INSERT INTO t VALUES(?)", (row() for _ in range(100)))
c.execute("COMMIT")
copy("-wal", "0.wal")
c.execute("PRAGMA wal_checkpoint(RESTART)")
c.execute("DELETE FROM t WHERE rowid % 3 != 0")
c.execute("VACUUM")
for i in range(5):
    c.execute("INSERT INTO t VALUES(?)", row())
copy("-wal", "1.wal")
c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
copy("", "final.db")
"#;

/// When the first batch was seen; the others follow second by second.
const T0: u64 = 1_795_413_292_345;
const GENERATION: u64 = 0x019a_af3c_5d10_a1b2;
/// More frames than this make a batch of their own that is a part.
const PART: usize = 40;

fn time(batch: usize) -> Timestamp {
    Timestamp::from_millis(T0 + 1000 * batch as u64)
}

/// One batch: its header and payload.
#[derive(Clone)]
struct Batch {
    header: MemberHeader,
    payload: Vec<u8>,
}

/// A place for one test: the objects of a backup, and what they were made from.
struct Room {
    dir: PathBuf,
    base: Vec<u8>,
    last: Vec<u8>,
    batches: Vec<Batch>,
    /// Whether a batch is stored as differences of pages.
    brief: fn(usize) -> bool,
}

impl Room {
    fn new(name: &str) -> Room {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("by_hand_{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("restore.py"), script()).unwrap();
        let made = Command::new("python3").args(["-c", MAKE]).current_dir(&dir).output().expect("python3 is needed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let (base, last, wals) = (read("base.db"), read("final.db"), [read("0.wal"), read("1.wal")]);
        Room { dir, base, last, batches: batches(&wals), brief: |_| false }
    }

    /// The database after the first `count` batches, by direct application.
    fn state(&self, count: usize) -> Vec<u8> {
        let mut database = self.base.clone();
        self.batches[..count].iter().for_each(|batch| apply(&mut database, batch));
        database
    }

    fn put(&self, key: impl std::fmt::Display, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join("store").join(key.to_string());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn put_snapshot(&self, header: &SnapshotHeader, database: &[u8]) {
        let (mut encoder, mut piece, mut out) = (SnapshotEncoder::new(header, None), Block::default(), Vec::new());
        BlockCompressor::new(snapshot::LEVEL).compress(database, &mut piece);
        encoder.add(&piece, &mut out);
        encoder.finish(&mut out).unwrap();
        self.put(header.key(), &out);
    }

    /// The snapshot before the first batch, which knows no WAL.
    fn put_base(&self) {
        let header = SnapshotHeader {
            generation: Generation::new(GENERATION),
            position: WalPosition { index: 0, offset: Offset::ZERO },
            page_size: PageSize::new(1024).unwrap(),
            order: ByteOrder::Little,
            wal_known: false,
            salt: Salt(0, 0),
            checksum: Checksum::default(),
            pages: self.base.len() as u32 / 1024,
            time: Timestamp::from_millis(T0 - 1),
            database: Some(checksum(&self.base)),
        };
        self.put_snapshot(&header, &self.base);
    }

    /// The snapshot after the first `count` batches.
    fn put_later(&self, count: usize) {
        let MemberHeader { generation, page_size, order, salt, checksum_after, pages, visible_by: seen, .. } =
            self.batches[count - 1].header;
        let at = self.batches[count - 1].header.end_point();
        let (wal_known, checksum, time) = (true, checksum_after, seen);
        let header = SnapshotHeader {
            generation,
            position: at,
            page_size,
            order,
            wal_known,
            salt,
            checksum,
            pages,
            time,
            database: None,
        };
        self.put_snapshot(&header, &self.state(count));
    }

    /// Stores the batches of a range as one object.
    fn put_segment(&self, range: std::ops::Range<usize>) -> PathBuf {
        let (first, mut out) = (range.start, Vec::new());
        for batch in range.clone() {
            self.member(batch, batch == first, &mut out);
        }
        let batches = &self.batches[range];
        self.put(segment::key_of(&batches[0].header, &batches[batches.len() - 1].header), &out)
    }

    /// Appends a batch as it is stored; the crc32 of its payload.
    fn member(&self, batch: usize, first: bool, out: &mut Vec<u8>) -> u32 {
        let (Batch { header, payload }, mut encoder) = (&self.batches[batch], SegmentEncoder::new(segment::LEVEL));
        if !(self.brief)(batch) {
            let after_brief = batch.checked_sub(1).filter(|before| (self.brief)(*before));
            let previous_crc = after_brief.map(|before| self.member(before, false, &mut Vec::new()));
            let previous_crc = previous_crc.unwrap_or(header.previous_crc);
            return encoder.member(&MemberHeader { previous_crc, ..*header }, &[payload], out);
        }
        let (mut database, mut composer) = (self.state(batch), Composer::default());
        composer.begin(header.pages);
        for frame in frames(&self.batches[batch]) {
            let at = (FrameHeader::first(frame).unwrap().page as usize - 1) * 1024;
            let mut old = database.get(at..).unwrap_or_default().to_vec();
            old.resize(1024, 0);
            composer.frame(frame, &old);
            apply_frame(&mut database, frame, 1024);
        }
        assert!(composer.finish());
        let checkpoint = if header.payload_offset == Offset::ZERO {
            u32::from_be_bytes(*payload[12..].first_chunk().unwrap())
        } else {
            0
        };
        let tells_wal = first || header.payload_offset == Offset::ZERO;
        let differences = Some(Differences { checksum: checksum(&database), checkpoint, tells_wal });
        encoder.differences(&MemberHeader { differences, ..*header }, &composer, out)
    }

    /// Replaces objects by the rollup of them.
    fn roll_up(&self, objects: &[PathBuf]) -> PathBuf {
        let store = self.dir.join("store");
        let mut made = Composition::new(1, usize::MAX);
        for path in objects {
            let name = path.strip_prefix(&store).unwrap().to_str().unwrap();
            let Some(Key::Segment(key)) = Key::parse(name) else { panic!("{name}") };
            made.add(&key, std::fs::read(path).unwrap().as_slice()).unwrap();
            std::fs::remove_file(path).unwrap();
        }
        let (header, net) = made.rollup(None).unwrap();
        let mut out = Vec::new();
        let mut encoder = RollupEncoder::new(&header, 6, &mut out);
        net.pages().for_each(|(number, delta)| encoder.page(number, delta, &mut out));
        encoder.finish(&mut out);
        self.put(rollup::key_of(&header), &out)
    }

    fn put_each(&self) -> Vec<PathBuf> {
        (0..self.batches.len()).map(|batch| self.put_segment(batch..batch + 1)).collect()
    }

    /// Runs the page; the restored database, and what it printed.
    fn restore(&self, until: Option<Timestamp>) -> (Output, Vec<u8>) {
        let output = self.dir.join("restored.db");
        let _ = std::fs::remove_file(&output);
        let mut command = Command::new("python3");
        command.arg("restore.py").arg("store").arg("restored.db").current_dir(&self.dir);
        command.args(until.map(Timestamp::to_key));
        let ran = command.output().unwrap();
        (ran, std::fs::read(output).unwrap_or_default())
    }

    fn restores(&self, until: Option<Timestamp>, count: usize) {
        let (ran, database) = self.restore(until);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(database == self.state(count), "{until:?} is not the state behind {count} batches");
    }

    /// The program agrees with the page.
    fn program_restores(&self, until: Option<Timestamp>, count: usize) {
        let output = self.dir.join("program.db");
        let _ = std::fs::remove_file(&output);
        let until = until.map(|moment| moment.to_string());
        let until: Vec<&str> = until.iter().flat_map(|moment| ["-timestamp", moment]).collect();
        let ran = self.program("restore", &[&["-o", "program.db"], until.as_slice()].concat());
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(std::fs::read(output).unwrap() == self.state(count), "not the state behind {count} batches");
    }

    /// The reader that was written from the manual alone (tests/support/second_reader.py).
    fn second_reader(&self) -> Output {
        let mut reader = python("second_reader.py");
        reader.arg(self.dir.join("store")).arg(self.dir.join("second.db")).output().expect("run python3")
    }

    fn second_reader_agrees(&self, count: usize) {
        let ran = self.second_reader();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(std::fs::read(self.dir.join("second.db")).unwrap() == self.state(count));
    }

    fn second_reader_refuses(&self, complaint: &str) {
        let ran = self.second_reader();
        let text = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success() && text.contains(complaint), "{text}");
    }

    fn program(&self, command: &str, options: &[&str]) -> Output {
        let url = format!("file://{}", self.dir.join("store").display());
        let mut program = Command::new(env!("CARGO_BIN_EXE_litestream"));
        program.arg(command).args(options).arg(url).current_dir(&self.dir).output().unwrap()
    }

    fn program_refuses(&self, complaint: &str) {
        let _ = std::fs::remove_file(self.dir.join("program.db"));
        for (command, options) in [("restore", &["-o", "program.db"][..]), ("verify", &[])] {
            let ran = self.program(command, options);
            let text = String::from_utf8_lossy(&ran.stderr);
            assert!(!ran.status.success() && text.contains(complaint), "{command}: {text}");
        }
        assert!(!self.dir.join("program.db").exists());
    }

    fn refuses(&self, until: Option<Timestamp>, complaint: &str) {
        let (ran, _) = self.restore(until);
        let text = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success() && text.contains(complaint), "{text}");
    }
}

fn frames(batch: &Batch) -> impl Iterator<Item = &[u8]> {
    let frames =
        if batch.header.payload_offset == Offset::ZERO { &batch.payload[WAL_HEADER..] } else { &batch.payload };
    frames.chunks_exact(batch.header.page_size.frame())
}

fn apply(database: &mut Vec<u8>, batch: &Batch) {
    frames(batch).for_each(|frame| apply_frame(database, frame, batch.header.page_size.get() as usize));
}

fn apply_frame(database: &mut Vec<u8>, frame: &[u8], size: usize) {
    let header = FrameHeader::first(frame).unwrap();
    let at = (header.page as usize - 1) * size;
    database.resize(database.len().max(at + size), 0);
    database[at..at + size].copy_from_slice(&frame[FRAME_HEADER..]);
    if header.commit != 0 {
        database.resize(header.commit as usize * size, 0);
    }
}

fn checksum(database: &[u8]) -> DatabaseChecksum {
    let mut running = RunningChecksum::new(PageSize::new(1024).unwrap());
    database.chunks_exact(1024).for_each(|page| running.push(page));
    running.sum()
}

/// Cuts WALs into batches: one for each transaction, and more for a large one.
fn batches(wals: &[Vec<u8>]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for (index, wal) in wals.iter().enumerate() {
        let header = WalHeader::parse(wal.first_chunk().unwrap()).unwrap();
        let mut chain = FrameChecksum::new(header.order, header.salt, header.checksum);
        let (mut from, mut before, mut frame, mut waiting) = (0, header.checksum, 0, 0);
        for bytes in wal[WAL_HEADER..].chunks_exact(header.page_size.frame()) {
            // After the frames of this WAL stand those of the one before.
            let Ok(found) = chain.push(bytes) else { break };
            (frame, waiting) = (frame + 1, waiting + 1);
            if found.commit == 0 && waiting < PART {
                continue;
            }
            let (start, end) =
                (Offset::end_of_frame(from, header.page_size), Offset::end_of_frame(frame, header.page_size));
            let after = chain.sum().unwrap();
            let payload = wal[start.get() as usize..end.get() as usize].to_vec();
            let member = member(&batches, &header, index as u32, (start, end), (before, after), found.commit);
            batches.push(Batch { header: member, payload });
            (from, before, waiting) = (frame, after, 0);
        }
    }
    same_times_within_transactions(&mut batches);
    batches
}

fn member(
    batches: &[Batch],
    wal: &WalHeader,
    index: u32,
    (from, end): (Offset, Offset),
    (checksum_before, checksum_after): (Checksum, Checksum),
    pages: u32,
) -> MemberHeader {
    MemberHeader {
        generation: Generation::new(GENERATION),
        start: batches.last().map_or(WalPosition { index, offset: from }, |batch| batch.header.end_point()),
        index,
        payload_offset: from,
        end,
        page_size: wal.page_size,
        order: wal.order,
        part: pages == 0,
        unchecksummed: false,
        salt: wal.salt,
        checksum_before,
        checksum_after,
        pages,
        visible_after: time(batches.len()),
        visible_by: time(batches.len()),
        previous_crc: batches.last().map_or(0, |batch| crc32fast::hash(&batch.payload)),
        differences: None,
        rollup: None,
    }
}

fn same_times_within_transactions(batches: &mut [Batch]) {
    let mut seen = None;
    for batch in batches.iter_mut().rev() {
        seen = if batch.header.part { seen } else { Some(batch.header.visible_by) };
        batch.header.visible_by = seen.unwrap_or(batch.header.visible_by);
        batch.header.visible_after = batch.header.visible_by;
    }
}

#[test]
fn the_page_restores_what_sqlite_made_byte_for_byte() {
    let room = Room::new("latest");
    assert!(room.batches.iter().any(|batch| batch.header.part) && room.batches.iter().any(|b| b.header.index == 1));
    room.put_base();
    room.put_each();
    room.restores(None, room.batches.len());
    assert!(room.state(room.batches.len()) == room.last);
}

#[test]
fn the_page_stops_at_any_moment() {
    let room = Room::new("moments");
    room.put_base();
    room.put_each();
    let mut states = BTreeMap::new();
    for (count, batch) in room.batches.iter().enumerate() {
        states.insert(batch.header.visible_by, count + 1);
    }
    room.restores(Some(Timestamp::from_millis(T0 - 1)), 0);
    for (seen, count) in states {
        room.restores(Some(seen), count);
        if count % 5 == 0 {
            room.restores(Some(Timestamp::from_millis(seen.millis() + 999)), count);
        }
    }
    room.refuses(Some(Timestamp::from_millis(T0 - 2)), "no snapshot is from");
}

#[test]
fn the_page_finds_its_way_along_objects_that_overlap() {
    let room = Room::new("overlap");
    let all = room.batches.len();
    room.put_base();
    // The way that reaches furthest is neither the one with the longest first step nor the one with the last name.
    for range in [0..2, 2..4, 0..5, 4..6, 6..7, 5..6, 7..10, 8..9, 10..all - 1, 9..all - 2, all - 1..all] {
        room.put_segment(range);
    }
    room.restores(None, all);
    room.restores(Some(time(4)), 5);
    room.second_reader_agrees(all);
    room.put_later(8);
    room.second_reader_agrees(all);
    room.restores(None, all);
    room.restores(Some(time(8)), 9);
}

#[test]
fn the_page_leaves_out_a_transaction_that_is_not_stored_whole() {
    let room = Room::new("part");
    let first = room.batches.iter().position(|batch| batch.header.part).unwrap();
    room.put_base();
    for batch in 0..=first {
        room.put_segment(batch..batch + 1);
    }
    room.restores(None, first);
}

#[test]
fn the_page_refuses_a_gap_and_restores_what_is_before_it() {
    let room = Room::new("gap");
    room.put_base();
    let paths = room.put_each();
    std::fs::remove_file(&paths[5]).unwrap();
    room.refuses(None, "gap: no segment begins at 00000000.");
    room.restores(Some(time(4)), 5);
}

#[test]
fn the_page_refuses_what_is_damaged() {
    let room = Room::new("damage");
    room.put_base();
    let paths = room.put_each();
    let good = std::fs::read(&paths[3]).unwrap();
    for (at, complaint) in
        [(1, "gzip header"), (30, "header crc32"), (good.len() - 1, "size"), (good.len() - 6, "crc32")]
    {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&paths[3], bad).unwrap();
        room.refuses(None, complaint);
    }
    std::fs::write(&paths[3], &good[..good.len() - 9]).unwrap();
    room.refuses(None, "is cut off");
    std::fs::write(&paths[3], std::fs::read(&paths[4]).unwrap()).unwrap();
    room.refuses(None, "a batch does not start at");
    std::fs::write(&paths[3], good).unwrap();
    room.restores(None, room.batches.len());
}

/// Ways to mix the two versions, one batch after the other.
const MIXTURES: [fn(usize) -> bool; 4] = [|_| true, |batch| batch % 2 == 1, |batch| batch >= 7, |batch| batch < 9];

#[test]
fn differences_and_raw_frames_are_one_history() {
    for (mixture, brief) in MIXTURES.into_iter().enumerate() {
        let mut room = Room::new(&format!("mixed_{mixture}"));
        room.brief = brief;
        let all = room.batches.len();
        room.put_base();
        // Members of both kinds one after another, and each alone.
        for range in [0..3, 3..4, 4..all - 2, all - 2..all] {
            room.put_segment(range);
        }
        room.restores(None, all);
        room.program_restores(None, all);
        room.second_reader_agrees(all);
        assert!(room.program("verify", &[]).status.success());
        for batch in [0, 3, 7, all - 3] {
            let until = room.batches[batch].header.visible_by;
            let count = room.batches.iter().filter(|batch| batch.header.visible_by <= until).count();
            room.restores(Some(until), count);
            room.program_restores(Some(until), count);
        }
        room.put_later(8);
        room.restores(None, all);
        room.program_restores(None, all);
    }
}

#[test]
fn rollups_lead_where_their_members_led() {
    let mut room = Room::new("rollups");
    room.brief = |_| true;
    room.put_base();
    let all = room.batches.len();
    let ends = |count: usize| !room.batches[count - 1].header.part;
    // One of a few, one over the border of the two WALs with VACUUM and the large transaction in it, and one of both.
    let border = room.batches.iter().position(|batch| batch.header.index == 1).unwrap();
    assert!(ends(5) && ends(border) && border > 20);
    let each = room.put_each();
    let mut rollups = vec![room.roll_up(&each[2..5]), room.roll_up(&each[5..border + 3])];
    for round in 0..2 {
        room.restores(None, all);
        room.program_restores(None, all);
        room.second_reader_agrees(all);
        assert!(room.program("verify", &[]).status.success());
        // What is asked for between the ends of a rollup is the state at its start.
        for (asked, count) in [(1, 2), (3, 2), (border - 2, if round == 0 { 5 } else { 2 }), (border + 2, border + 3)] {
            room.restores(Some(time(asked)), count);
            room.program_restores(Some(time(asked)), count);
        }
        if round == 0 {
            rollups = vec![room.roll_up(&rollups)];
        }
    }
    // From a snapshot in the midst of a rollup nothing leads on: a later state is reached from the one before.
    room.put_later(8);
    room.restores(Some(time(7)), 8);
    room.program_restores(Some(time(7)), 8);
    room.restores(None, all);
    room.program_restores(None, all);
}

#[test]
fn a_flipped_bit_in_a_rollup_is_never_restored() {
    let mut room = Room::new("flipped_rollup");
    room.brief = |_| true;
    room.put_base();
    let each = room.put_each();
    let path = room.roll_up(&each[2..5]);
    let good = std::fs::read(&path).unwrap();
    for bit in (0..good.len() * 8).step_by(good.len() / 6) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bad).unwrap();
        let ran = room.program("restore", &["-o", "program.db"]);
        assert!(!ran.status.success(), "bit {bit}");
        room.second_reader_refuses("second_reader.py: ");
    }
}

#[test]
fn differences_are_a_fraction_of_the_frames() {
    let mut room = Room::new("sizes");
    let size = |path: PathBuf| std::fs::metadata(path).unwrap().len();
    let size = |room: &Room| room.put_each().into_iter().map(size).sum::<u64>();
    let raw = size(&room);
    room.brief = |_| true;
    let brief = size(&room);
    assert!(brief < raw, "{brief} of {raw}");
}

#[test]
fn differences_that_do_not_fit_are_named_and_never_restored() {
    let mut room = Room::new("wrong");
    room.brief = |_| true;
    room.put_base();
    let paths = room.put_each();
    let good = std::fs::read(&paths[5]).unwrap();
    let forge = |base: &dyn Fn(&mut Vec<u8>), sum: u64| {
        let Batch { header, .. } = &room.batches[5];
        let (mut database, mut composer, mut out) = (room.state(5), Composer::default(), Vec::new());
        base(&mut database);
        composer.begin(header.pages);
        for frame in frames(&room.batches[5]) {
            let at = (FrameHeader::first(frame).unwrap().page as usize - 1) * 1024;
            let mut old = database.get(at..).unwrap_or_default().to_vec();
            old.resize(1024, 0);
            composer.frame(frame, &old);
            apply_frame(&mut database, frame, 1024);
        }
        assert!(composer.finish());
        let sum = checksum(&room.state(6)).get() ^ sum;
        let differences = Some(Differences { checksum: DatabaseChecksum::new(sum), checkpoint: 0, tells_wal: true });
        let header = MemberHeader { differences, ..*header };
        SegmentEncoder::new(1).differences(&header, &composer, &mut out);
        std::fs::write(&paths[5], out).unwrap();
    };
    forge(&|_| (), 0);
    room.program_restores(None, room.batches.len());
    // Made from other pages than those that are stored.
    forge(&|database| database.chunks_exact_mut(1024).for_each(|page| page.rotate_left(1)), 0);
    room.program_refuses("differences: expected frames that end in ");
    room.refuses(None, "the pages do not lead to the checksum of the last frame");
    room.second_reader_refuses("the pages do not lead to the checksum of the last frame");
    // Another database.
    forge(&|_| (), 1);
    room.program_refuses("database checksum after a member: expected ");
    room.second_reader_refuses("the database checksum differs");
    std::fs::write(&paths[5], &good).unwrap();
    room.restores(None, room.batches.len());
    std::fs::remove_file(&paths[5]).unwrap();
    room.program_refuses("no segment begins at 00000000:");
    room.second_reader_refuses("a gap: nothing leads to 00000000.");
}

#[test]
fn a_flipped_bit_in_differences_is_never_restored() {
    let mut room = Room::new("flipped");
    room.brief = |_| true;
    room.put_base();
    let path = room.put_each().swap_remove(3);
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut bad = good.clone();
        bad[at] ^= 16;
        std::fs::write(&path, bad).unwrap();
        let _ = std::fs::remove_file(room.dir.join("program.db"));
        let ran = room.program("restore", &["-o", "program.db"]);
        let restored = std::fs::read(room.dir.join("program.db"));
        assert!(if ran.status.success() { restored.unwrap() == room.last } else { restored.is_err() }, "byte {at}");
        if !ran.status.success() && at % 4 == 0 {
            room.second_reader_refuses("second_reader.py: ");
        }
    }
}
