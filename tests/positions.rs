//! Every stored position, one by one, holds exactly one commit more than the one before it; and a restore to a moment in
//! time is never later than asked, and hardly older.

mod support;

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use litestream::format::key::Key;
use litestream::format::position::{Offset, Point, Position};
use litestream::format::segment::{MemberFrames, Reader};
use litestream::format::time::Timestamp;
use support::{Bed, Commit, all_committed, all_judged, commits, judged, on_a_directory_only};

on_a_directory_only! {
    each_position_holds_one_commit_more_than_the_last
    a_moment_in_time_is_never_exceeded_and_missed_by_one_tick_at_most
    a_moment_before_a_new_generation_is_found_in_the_one_before_it
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
    assert!(positions.last().unwrap().point.index > 3, "the WAL was restarted now and then");
    let restored: Vec<PathBuf> =
        positions.iter().map(|position| restored_to(bed, "-position", &position.to_string())).collect();
    let states = all_judged(&restored);
    let mut found: Vec<u64> = states.iter().map(|state| state.seq).collect();
    // A VACUUM is a commit that changes no row.
    found.dedup();
    assert_eq!(found, (first + 1..=last).collect::<Vec<u64>>());
    all_committed(&states, &database);
}

/// Behind each commit frame of each segment, in order.
fn commit_positions(bed: &Bed) -> Vec<Position> {
    let mut positions = Vec::new();
    for name in bed.objects("wal") {
        let name = name.rsplit_once(' ').unwrap().0;
        let Some(Key::Segment(key)) = Key::parse(name) else { panic!("{name} is not a segment") };
        let mut reader = Reader::new(fs::File::open(bed.path("store").join(name)).unwrap());
        while let Some(header) = reader.next_member().unwrap() {
            let mut number = header.from.frame(header.page_size).unwrap();
            let mut frames = MemberFrames::new(&mut reader, &header).unwrap();
            let mut bytes = Vec::new();
            while let Some(frame) = frames.next_frame(&mut bytes).unwrap() {
                number += 1;
                if frame.commit > 0 {
                    let offset = Offset::behind_frame(number, header.page_size);
                    positions
                        .push(Position { generation: key.generation, point: Point { index: header.index, offset } });
                }
            }
        }
    }
    positions
}

fn a_moment_in_time_is_never_exceeded_and_missed_by_one_tick_at_most(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let begin = SystemTime::now();
    bed.write(&database, &[&["--commits", "240"], &LIFE[..]].concat());
    replicator.stop();

    let commits: Vec<Commit> = commits(&database).into_iter().filter(|commit| commit.begun > begin).collect();
    let last = commits.last().unwrap().begun;
    // In the middle of a commit, just behind it, and a while later.
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

fn a_moment_before_a_new_generation_is_found_in_the_one_before_it(bed: &Bed) {
    let database = bed.database();
    let mut asked = Vec::new();
    for generation in 1..=3 {
        let replicator = bed.replicate(&database);
        for _ in 0..2 {
            bed.write(&database, &["--commits", "5"]);
            bed.converges(&database);
            asked.push((millis(SystemTime::now()), judged(&database)));
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
