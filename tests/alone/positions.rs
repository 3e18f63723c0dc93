//! Every stored position, one by one, holds exactly one commit more than the one before it; and a restore to a moment in
//! time is never later than asked, and hardly older.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::alone::alone_on_a_directory;
use crate::support::{Bed, Commit, all_committed, all_judged, commits, judged};
use litestream::error::Result;
use litestream::format::difference_frames::{BasePages, DifferenceFrames};
use litestream::format::frames::MemberFrames;
use litestream::format::key::Key;
use litestream::format::position::{Offset, Position, WalPosition};
use litestream::format::segment::SegmentReader;
use litestream::format::snapshot::SnapshotReader;
use litestream::format::time::Timestamp;
use litestream::format::wal::{Checksum, FRAME_HEADER, FrameHeader};

alone_on_a_directory! {
    each_position_holds_one_commit_more_than_the_last
    restore_to_a_time_is_never_late_and_one_tick_early_at_most
    moment_before_a_generation_is_in_the_previous_one
}

/// The default monitor-interval, and what a busy machine may add before the program gets its turn.
const TICK: Duration = Duration::from_millis(50);
const BUSY: Duration = Duration::from_millis(1500);

/// Checkpoints of each kind, restarts and shrinking in the middle of it.
const LIFE: [&str; 7] = ["--checkpoint", "restart,passive,truncate,full", "--every", "7", "--rate", "60", "--vacuum"];

fn each_position_holds_one_commit_more_than_the_last(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let first = judged(&database).seq;
    bed.write(&database, &[&["--commits", "60"], &LIFE[..]].concat());
    bed.run(&["snapshot", &database.to_string_lossy(), &bed.url()]).succeeded();
    bed.write(&database, &["--commits", "90", "--spill", "--rollback", "0.2", "--rows", "1"]);
    bed.write(&database, &["--commits", "40", "--churn"]);
    replicator.stop();
    let last = judged(&database).seq;

    let positions = commit_positions(bed);
    assert_eq!(bed.generations().len(), 1);
    assert!(positions.last().unwrap().wal_position.index > 3, "the WAL was restarted now and then");
    let restored: Vec<PathBuf> =
        positions.iter().map(|position| restored_to(bed, "-position", &position.to_string())).collect();
    let states = all_judged(&restored);
    let mut found: Vec<u64> = states.iter().map(|state| state.seq).collect();
    // A VACUUM is a commit that changes no row.
    found.dedup();
    assert_eq!(found, (first + 1..=last).collect::<Vec<u64>>());
    all_committed(&states, &database);
}

/// The pages of the database so far; all others hold zeros.
#[derive(Default)]
struct Pages(HashMap<u32, Vec<u8>>);

impl BasePages for Pages {
    fn base(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        match self.0.get(&number) {
            Some(found) => page.copy_from_slice(found),
            None => page.fill(0),
        }
        Ok(())
    }
}

impl Pages {
    fn of_the_first_snapshot(bed: &Bed) -> Pages {
        let name = bed.objects("snapshots").remove(0);
        let name = name.rsplit_once(' ').unwrap().0;
        let mut reader = SnapshotReader::open(fs::File::open(bed.path("store").join(name)).unwrap()).unwrap();
        let (mut page, mut pages) = (vec![0; reader.header().page_size.get() as usize], HashMap::new());
        for number in 1..=reader.header().pages {
            let mut have = 0;
            while have < page.len() {
                have += reader.read(&mut page[have..]).unwrap();
            }
            pages.insert(number, page.clone());
        }
        Pages(pages)
    }

    fn apply(&mut self, frame: &FrameHeader, bytes: &[u8]) {
        self.0.insert(frame.page, bytes[FRAME_HEADER..].to_vec());
        if frame.commit > 0 {
            self.0.retain(|page, _| *page <= frame.commit);
        }
    }
}

/// After each commit frame of each segment, in order.
fn commit_positions(bed: &Bed) -> Vec<Position> {
    let (mut positions, mut pages) = (Vec::new(), Pages::of_the_first_snapshot(bed));
    let (mut chain, mut bytes) = (Checksum::default(), Vec::new());
    for name in bed.objects("wal") {
        let name = name.rsplit_once(' ').unwrap().0;
        let Some(Key::Segment(key)) = Key::parse(name) else { panic!("{name} is not a segment") };
        let mut reader = SegmentReader::named(&key, fs::File::open(bed.path("store").join(name)).unwrap());
        while let Some(header) = reader.next_member().unwrap() {
            let before = if header.payload_offset == Offset::ZERO { header.checksum_before } else { chain };
            let mut frames = match header.differences {
                Some(_) => Frames::Differences(DifferenceFrames::new(&mut reader, &header, before)),
                None => Frames::Raw(MemberFrames::new(&mut reader, &header).unwrap()),
            };
            chain = header.checksum_after;
            let mut number = header.payload_offset.frame(header.page_size).unwrap();
            while let Some(frame) = frames.next(&mut pages, &mut bytes) {
                number += 1;
                pages.apply(&frame, &bytes);
                if frame.commit > 0 {
                    let offset = Offset::end_of_frame(number, header.page_size);
                    positions.push(Position {
                        generation: key.generation,
                        wal_position: WalPosition { index: header.index, offset },
                    });
                }
            }
        }
    }
    positions
}

enum Frames<'a> {
    Raw(MemberFrames<'a, fs::File>),
    Differences(DifferenceFrames<'a, fs::File>),
}

impl Frames<'_> {
    fn next(&mut self, pages: &mut Pages, bytes: &mut Vec<u8>) -> Option<FrameHeader> {
        match self {
            Frames::Raw(frames) => frames.next_frame(bytes).unwrap(),
            Frames::Differences(frames) => frames.next_frame(pages, bytes).unwrap(),
        }
    }
}

fn restore_to_a_time_is_never_late_and_one_tick_early_at_most(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let begin = SystemTime::now();
    bed.write(&database, &[&["--commits", "240"], &LIFE[..]].concat());
    replicator.stop();

    let commits: Vec<Commit> = commits(&database).into_iter().filter(|commit| commit.begun > begin).collect();
    let last = commits.last().unwrap().begun;
    // In the middle of a commit, just after it, and a while later.
    let behind = |commit: &Commit| [0, 7, 31].map(|after| millis(commit.begun + Duration::from_millis(after)));
    let asked: Vec<u64> =
        commits.iter().step_by(commits.len() / 20).flat_map(behind).filter(|asked| *asked < millis(last)).collect();
    let restored: Vec<PathBuf> =
        asked.iter().map(|asked| restored_to(bed, "-timestamp", &Timestamp::from_millis(*asked).to_string())).collect();
    let states = all_judged(&restored);
    all_committed(&states, &database);
    let mut late: Vec<Duration> =
        asked.iter().zip(&states).filter_map(|(asked, state)| staleness(&commits, *asked, state.seq)).collect();
    late.sort_unstable();
    assert!(late[late.len() / 2] <= TICK, "half of the restores miss commits that are older than a tick: {late:?}");
    assert!(late[late.len() - 1] <= TICK + BUSY, "{late:?}");
}

fn moment_before_a_generation_is_in_the_previous_one(bed: &Bed) {
    let database = bed.database();
    let mut asked = Vec::new();
    for generation in 1..=3 {
        let replicator = bed.replicate(&database);
        for _ in 0..2 {
            bed.write(&database, &["--commits", "5"]);
            bed.converges(&database);
            asked.push((millis(SystemTime::now()), judged(&database)));
            // Part of the schedule: what is asked for lies between two batches.
            sleep(10 * TICK);
        }
        replicator.kill();
        assert_eq!(bed.generations().len(), generation);
        // All of it has gone into the database file, and there is another WAL.
        bed.write(&database, &["--commits", "5"]);
    }
    bed.replicate_once(&database);
    for (asked, expected) in asked {
        let moment = Timestamp::from_millis(asked).to_string();
        assert_eq!(judged(&restored_to(bed, "-timestamp", &moment)), expected, "at {moment}");
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn restored_to(bed: &Bed, option: &str, value: &str) -> PathBuf {
    let output = bed.fresh("restored.db");
    bed.run(&["restore", option, value, "-o", &output.to_string_lossy(), &bed.url()]).succeeded();
    output
}

/// How long before the moment that was asked for the first commit was done which the restore lacks.
fn staleness(commits: &[Commit], asked: u64, restored: u64) -> Option<Duration> {
    let asked = UNIX_EPOCH + Duration::from_millis(asked);
    let later = commits.iter().find(|commit| commit.state.seq == restored && commit.begun > asked);
    assert!(later.is_none(), "asked for {asked:?}, restored {later:?}");
    let missing = commits.iter().find(|commit| commit.state.seq > restored)?;
    Some(asked.duration_since(missing.done).unwrap_or_default())
}
