//! A database is copied, and snapshots of it are read piece by piece, beside real writers, who checkpoint, shrink, die and
//! come back as they please.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::random::Random;
use crate::support::{Bed, Process, all_committed, all_judged, assert_equal, assert_never_back};
use litestream::source::snapshot::Snapshot;
use litestream::source::{Batch, ReadResult, Source, SourceOptions};

/// How long the writers write.
const TIME: Duration = Duration::from_secs(6);

/// Between two kills.
const KILL: Duration = Duration::from_millis(700);

/// Each is another application. All have small rows, so that a commit is a few pages among many.
const WRITERS: &[&[&str]] = &[
    &["--checkpoint", "truncate,restart,full,passive", "--every", "9", "--rate", "150"],
    &["--checkpoint", "truncate", "--every", "3", "--churn", "--autocheckpoint", "0", "--rate", "60"],
    &["--vacuum", "--every", "25", "--rows", "40", "--rate", "30", "--autocheckpoint", "40"],
    &["--spill", "--rollback", "0.3", "--every", "5", "--checkpoint", "full", "--rate", "8"],
];

/// HAMMER_SECONDS hammers for longer.
fn time() -> Duration {
    let given = std::env::var("HAMMER_SECONDS").ok();
    given.map_or(TIME, |text| Duration::from_secs(text.parse().expect("a number")))
}

/// A database that is made of what was there at the start and what was given out since.
struct Copy {
    file: File,
    path: PathBuf,
}

impl Copy {
    /// Of a database that nobody has open, and that has no WAL.
    fn new(database: &Path, path: PathBuf) -> Copy {
        fs::copy(database, &path).expect("copy the database");
        let file = File::options().write(true).open(&path).expect("open the copy");
        Copy { file, path }
    }

    fn add(&self, batch: &Batch) {
        let size = batch.end.page_size.get() as usize;
        for frame in batch.frames.chunks(24 + size) {
            let number = |at: usize| u64::from(u32::from_be_bytes(*frame[at..].first_chunk().expect("a number")));
            self.file.write_all_at(&frame[24..], (number(0) - 1) * size as u64).expect("write to the copy");
            if number(4) > 0 {
                self.file.set_len(number(4) * size as u64).expect("cut the copy off");
            }
        }
    }
}

struct Hammer {
    bed: Bed,
    database: PathBuf,
    random: Random,
    source: Source,
    buffer: Vec<u8>,
    copy: Copy,
    writers: Vec<Process>,
    begun: Instant,
    /// Writers that were killed.
    killed: u32,
}

impl Hammer {
    fn new(seed: u64) -> Hammer {
        let bed = Bed::directory("hammered");
        let database = bed.path("a.db");
        let page_size = ["512", "1024", "4096"][seed as usize % 3];
        bed.write(&database, &["--commits", "60", "--rows", "30", "--page-size", page_size]);
        let copy = Copy::new(&database, bed.path("copy.db"));
        let options = SourceOptions {
            busy_timeout: Duration::from_secs(5),
            enable_wal: true,
            allow_network: false,
            // With few, writers are held off often.
            differences: false,
            checkpoint_frames: [4, 60][seed as usize % 2],
            checkpoint_interval: None,
            truncate_frames: Some(500),
        };
        let source = Source::open(&database, &options).expect("open the database");
        let (writers, buffer) = (Vec::new(), vec![0; 1 << 20]);
        Hammer { bed, database, random: Random(seed), source, buffer, copy, writers, begun: Instant::now(), killed: 0 }
    }

    fn writer(&mut self, number: usize) -> Process {
        let seed = self.random.below(1 << 30).to_string();
        let words = [WRITERS[number], &["--seed", &seed, "--abandon", "--seconds", "3600"]].concat();
        self.bed.application(&self.database, &words)
    }

    /// What a round of `replicate` does with the source. What it gives out goes to the copy.
    fn round(&mut self) {
        if !self.source.has_work(Instant::now()).expect("look for changes") {
            return;
        }
        loop {
            loop {
                match self
                    .source
                    .read(&mut self.buffer, &mut litestream::format::differences::Composer::default())
                    .expect("copy")
                {
                    ReadResult::CaughtUp => break,
                    ReadResult::Batch(batch) => self.copy.add(&batch),
                    ReadResult::Broken(reason) => panic!("the generation was lost: {reason}"),
                }
            }
            if !self.source.finish_round(Instant::now()).expect("move the pin") && !self.source.blocks_writers() {
                return;
            }
        }
    }

    /// Now and then a writer is killed, and another one takes its place.
    fn kill_one(&mut self) {
        if self.begun.elapsed() < KILL * (self.killed + 1) {
            return;
        }
        let number = self.random.below(WRITERS.len() as u64) as usize;
        let next = self.writer(number);
        std::mem::replace(&mut self.writers[number], next).kill();
        self.killed += 1;
    }

    fn read(&mut self, mut snapshot: Snapshot, output: &Path) {
        let size = snapshot.mark().page_size.get() as usize;
        snapshot.read_once();
        // Some are read within a few commits, others within hundreds.
        let rounds = [0, 1, 3, 10][self.random.below(4) as usize];
        let most = 4 + self.random.below(40) as usize;
        let mut bytes = Vec::new();
        loop {
            for _ in 0..rounds {
                // Part of the random schedule.
                std::thread::sleep(Duration::from_micros(self.random.below(800)));
                self.round();
            }
            let mut piece = vec![0; size * most];
            match snapshot.read(&mut piece).expect("read the snapshot") {
                0 => break,
                count => bytes.extend_from_slice(&piece[..count]),
            }
            self.kill_one();
        }
        assert_eq!(bytes.len() as u64, snapshot.bytes());
        fs::write(output, bytes).expect("write the snapshot");
    }

    fn run(&mut self) -> Vec<PathBuf> {
        self.writers = (0..WRITERS.len()).map(|number| self.writer(number)).collect();
        let mut taken = Vec::new();
        while self.begun.elapsed() < time() {
            // Part of the random schedule.
            std::thread::sleep(Duration::from_micros(self.random.below(2000)));
            self.round();
            let meta = self.bed.path("");
            let Some(snapshot) = self.source.snapshot(&meta).expect("begin a snapshot") else { continue };
            let output = self.bed.path(&format!("snapshot-{}.db", taken.len()));
            self.read(snapshot, &output);
            taken.push(output);
        }
        self.writers.drain(..).for_each(Process::kill);
        self.round();
        taken
    }
}

#[test]
fn snapshots_are_commits_under_checkpoints_vacuum_and_kills() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut hammer = Hammer::new(seed);
    let taken = hammer.run();
    let states = all_judged(&taken);
    all_committed(&states, &hammer.database);
    assert_never_back(&states);
    println!(
        "{} snapshots, from {:?} to {:?}; {} writers killed",
        taken.len(),
        states[0],
        states.last(),
        hammer.killed
    );
    assert!(taken.len() > 10 && hammer.killed > 0);
    assert_equal(&hammer.database, &hammer.copy.path);
}
