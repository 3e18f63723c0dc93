//! Random schedules: several applications write, check, shrink, crash and are killed, the replicator is killed and stopped,
//! the store goes away, and all of that at once. Every restore is a state that was committed, none goes back, and in the
//! end the restore is the live database. Whenever the program has exited 0, or `status` says ok, a restore at that moment has
//! all that was committed before. In a quarter of the schedules whatever stores has an age recipient alone, and only who
//! restores and verifies has the identity. (The heartbeat counts in minutes: tests/random/deterministic.rs judges it.)
//!
//! `MODEL_SEED=n` runs that schedule alone, `MODEL_STEPS=n` makes schedules of n steps, `MODEL_SECONDS=n` runs one schedule
//! after another for so long (`make soak SECONDS=n`). The seed decides the schedule, not the timing: a seed that failed is
//! worth several runs. Seeds that once failed stand in tests/data/model-seeds, and each run begins with them.

mod hazards;
mod seeds;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::random::Random;
use crate::support::{
    Bed, Process, Session, State, all_committed, assert_equal, assert_never_back, equal, judged, newest_committed,
    until,
};
use hazards::Network;
use seeds::{Keeper, fresh_seed, is_encrypted, kept_seeds, number};

const STEPS: u64 = 45;
/// Writers at the same time.
const WRITERS: usize = 3;
/// Kilobytes that a replicator, built for tests, may ever have had in memory: an outage fills 8 MiB, and what is copied,
/// packed and sent at the same time are some buffers of 1 to 4 MiB.
const MOST_MEMORY: u64 = 96 << 10;

#[test]
fn no_schedule_loses_or_invents_a_commit_on_a_directory() {
    schedules("directory");
}

#[test]
fn no_schedule_loses_or_invents_a_commit_on_nats() {
    schedules("nats");
}

/// The kept seeds, then fresh ones.
fn schedules(store: &str) {
    if let Some(seed) = number("MODEL_SEED") {
        return run(store, seed);
    }
    for seed in kept_seeds(store) {
        run(store, seed);
    }
    let end = Instant::now() + Duration::from_secs(number("MODEL_SECONDS").unwrap_or(0));
    loop {
        run(store, fresh_seed());
        if Instant::now() >= end {
            return;
        }
    }
}

fn run(store: &str, seed: u64) {
    println!("MODEL_SEED={seed} on {store}, encrypted: {}", is_encrypted(seed));
    let _keeper = Keeper::new(store, seed);
    let mut model = Model::new(store, seed);
    for _ in 0..number("MODEL_STEPS").unwrap_or(STEPS) {
        model.step();
    }
    model.finish();
}

/// One schedule under way.
struct Model {
    random: Random,
    /// For what is out of the ordinary: drawn apart, so that the seeds that were kept before it stay what they were.
    hazards: Random,
    writers: Vec<Process>,
    replicator: Option<Process>,
    /// With this one the database is never closed by all, so SQLite never replays a WAL. Only so may writers spill: older
    /// SQLite leaves frames without checksums after a rolled back savepoint, and its own recovery drops what follows.
    holder: Option<Session>,
    /// Writers may keep a read transaction open. Then nobody asks for more than a passive checkpoint: any other would keep
    /// all writers waiting for that reader, with us or without us.
    long_readers: bool,
    database: PathBuf,
    /// Restored so far.
    states: Vec<State>,
    store_away: bool,
    /// The store was away at some time in the life of this replicator.
    met_outage: bool,
    /// Of any replicator at any time, in kilobytes.
    most_memory: u64,
    begun: Instant,
    /// Where there is a server.
    network: Option<Network>,
    /// Last, so that every process is gone before its files.
    bed: Bed,
}

impl Model {
    fn new(store: &str, seed: u64) -> Model {
        let mut random = Random(seed);
        let mut hazards = Random(!seed);
        let two_sites = hazards.chance(20);
        let (mut bed, network) = match store {
            "nats" => {
                let (bed, network) = Network::new("model", two_sites);
                (bed, Some(network))
            }
            _ => (Bed::directory("model"), None),
        };
        if is_encrypted(seed) {
            bed.encrypt();
        }
        let database = bed.path("a.db");
        let page_size = random.one_of(&["512", "1024", "4096", "4096", "16384", "65536"]);
        bed.write(&database, &["--commits", "3", "--page-size", page_size]);
        let holder = random.chance(50).then(|| bed.session(&database));
        let long_readers = random.chance(30);
        Model {
            random,
            hazards,
            writers: Vec::new(),
            replicator: None,
            holder,
            long_readers,
            database,
            states: Vec::new(),
            store_away: false,
            met_outage: false,
            most_memory: 0,
            begun: Instant::now(),
            network,
            bed,
        }
    }

    /// What happens when, for the one who has to find out why a schedule failed.
    fn say(&self, what: &str) {
        println!("{:6.2} {what}", self.begun.elapsed().as_secs_f64());
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..24 => self.start_a_writer(),
            24..36 => self.kill_a_writer(),
            36..50 => self.checkpoint(),
            50..54 => self.by_another_process("VACUUM"),
            54..62 => self.kill_the_replicator(),
            62..68 => self.stop_the_replicator(),
            68..72 => self.take_a_snapshot(),
            72..80 => self.store_comes_or_goes(),
            _ => self.restore(),
        }
        if self.hazards.chance(9) {
            self.out_of_the_ordinary();
        }
        self.look_after_processes();
        if self.replicator.is_none() && self.random.chance(60) {
            self.start_the_replicator();
        }
        // Part of the random schedule.
        sleep(Duration::from_millis(self.random.below(200)));
    }

    fn start_a_writer(&mut self) {
        if self.writers.len() >= WRITERS {
            return;
        }
        let random = &mut self.random;
        let mut options = vec!["--seed".to_string(), random.below(1 << 30).to_string()];
        let mut add = |name: &str, value: &str| options.extend([name.to_string(), value.to_string()]);
        add("--rate", random.one_of(&["5", "50", "200", "400"]));
        add("--seconds", random.one_of(&["0.5", "2", "6"]));
        add("--rows", random.one_of(&["0", "1", "3", "30"]));
        add("--size", random.one_of(&["10", "120", "2000"]));
        add("--sync", random.one_of(&["off", "normal", "full"]));
        add("--rollback", random.one_of(&["0", "0", "0.3"]));
        add("--every", random.one_of(&["1", "7", "40"]));
        if random.chance(40) {
            add("--autocheckpoint", random.one_of(&["0", "1", "20"]));
        }
        if random.chance(40) {
            let modes = ["passive", "full", "restart", "truncate", "truncate,passive,full"];
            add("--checkpoint", random.one_of(if self.long_readers { &modes[..1] } else { &modes }));
        }
        let mut flag = |name: &str, percent| options.extend(random.chance(percent).then(|| name.to_string()));
        flag("--churn", 20);
        flag("--abandon", 30);
        flag("--reader", if self.long_readers { 30 } else { 0 });
        flag("--vacuum", 10);
        flag("--spill", if self.holder.is_some() { 25 } else { 0 });
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.say(&format!("writer {}", options.join(" ")));
        self.writers.push(self.bed.application(&self.database, &options));
    }

    fn kill_a_writer(&mut self) {
        if !self.writers.is_empty() {
            let at = self.random.below(self.writers.len() as u64) as usize;
            self.say("kill a writer");
            self.writers.swap_remove(at).kill();
        }
    }

    fn checkpoint(&mut self) {
        let modes = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
        let mode = self.random.one_of(if self.long_readers { &modes[..1] } else { &modes });
        self.by_another_process(&format!("PRAGMA wal_checkpoint({mode})"));
    }

    /// Others may be in the way of it.
    fn by_another_process(&mut self, sql: &str) {
        let ran = self.bed.try_sql(&self.database, &[sql]);
        self.say(&format!("{sql}: {}", ran.stdout.trim()));
        assert!(ran.status == 0 || ran.stderr.contains("database is locked"), "{}", ran.stderr);
    }

    fn start_the_replicator(&mut self) {
        self.say("start the replicator");
        let comparing = self.hazards.chance(50);
        let start = if comparing { Bed::replicate_comparing } else { Bed::replicate };
        self.replicator = Some(start(&self.bed, &self.database));
        self.met_outage = self.store_away;
    }

    fn kill_the_replicator(&mut self) {
        if let Some(replicator) = self.replicator.take() {
            self.say("kill the replicator");
            self.no_false_alarm(&replicator.log());
            replicator.kill();
        }
    }

    fn stop_the_replicator(&mut self) {
        if self.store_away {
            return;
        }
        if let Some(mut replicator) = self.replicator.take() {
            self.say("stop the replicator");
            // A signal that comes before it listens to signals kills it.
            replicator.says("msg=replicating");
            let before = newest_committed(&self.database);
            self.no_false_alarm(&replicator.log());
            replicator.stop();
            self.has_stored("replicate exited 0", before);
        }
    }

    /// The database is never another one than its commits lead to, whatever a start or a comparison finds.
    fn no_false_alarm(&self, log: &str) {
        assert!(!log.contains("commits lead to"), "{log}");
    }

    /// The reader that was written from the manual alone reads every object, and has the same database.
    fn second_reader_agrees(&self, restored: &Path) {
        let output = self.bed.fresh("second.db");
        let mut reader = support::python("second_reader.py");
        let mut objects = self.bed.path("store");
        if let Some(key) = self.bed.key() {
            let decrypted = self.bed.fresh("decrypted");
            key.decrypt_tree(&objects, &decrypted);
            objects = decrypted;
        }
        let ran = reader.arg(objects).arg(&output).output().expect("run python3");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(fs::read(output).expect("its output") == fs::read(restored).expect("read what was restored"));
        self.say(&format!("a second reader: {}", String::from_utf8_lossy(&ran.stdout).trim()));
    }

    /// Beside the replicator, or without it.
    fn take_a_snapshot(&mut self) {
        if self.store_away || self.states.is_empty() {
            return;
        }
        self.say("snapshot");
        let mut command = support::litestream();
        command.arg("snapshot").args(self.bed.subject(&self.database, &self.bed.url()));
        let ran = self.bed.run_command(&mut command);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let restored = self.bed.restored();
        let state = judged(&restored);
        fs::remove_file(&restored).expect("remove a restored file");
        self.states.push(state);
    }

    fn store_comes_or_goes(&mut self) {
        if self.store_away {
            self.bed.store_returns();
        } else {
            self.bed.store_goes(self.random.chance(40));
        }
        self.store_away = !self.store_away;
        self.met_outage = true;
        self.say(if self.store_away { "the store goes" } else { "the store is back" });
    }

    fn restore(&mut self) {
        if self.store_away {
            return;
        }
        if let Some(restored) = self.bed.restored_if_any() {
            let state = judged(&restored);
            self.say(&format!("restored {state:?}"));
            self.states.push(state);
            fs::remove_file(&restored).expect("remove a restored file");
        }
        assert_never_back(&self.states);
        all_committed(&self.states, &self.database);
    }

    /// A writer that ended by itself was never kept waiting for too long; a replicator ends only if it finds no store at
    /// its start.
    fn look_after_processes(&mut self) {
        self.writers.retain_mut(|writer| {
            let running = writer.is_running();
            if !running {
                writer.exits(0);
            }
            running
        });
        if let Some(replicator) = &self.replicator {
            self.most_memory = self.most_memory.max(peak_memory(replicator));
            assert!(self.most_memory < MOST_MEMORY, "{} kB", self.most_memory);
        }
        if let Some(replicator) = &mut self.replicator
            && !replicator.is_running()
        {
            let log = replicator.log();
            let knew_the_store = log.contains("new generation") || log.contains("msg=continuing");
            assert!(self.met_outage && !knew_the_store, "the replicator ended:\n{log}");
            replicator.exits(support::STORE);
            self.replicator = None;
        }
    }

    fn finish(mut self) {
        if self.store_away {
            self.store_comes_or_goes();
        }
        self.say("the end");
        while !self.writers.is_empty() {
            self.look_after_processes();
            // Until the writers end by themselves: each has a length of its own.
            sleep(Duration::from_millis(20));
        }
        self.say("no writer is left");
        until("the restore equals the live database", || {
            self.look_after_processes();
            if self.replicator.is_none() {
                self.start_the_replicator();
            }
            let restored = self.bed.restored_if_any().ok_or("nothing to restore")?;
            equal(&self.database, &restored)
        });
        // A commit whose writer was killed before it published it would come to be when all are gone and somebody opens
        // the database: now it never will.
        self.bed.write(&self.database, &["--commits", "1"]);
        self.stop_the_replicator();
        let restored = self.bed.restored();
        assert_equal(&self.database, &restored);
        self.states.push(judged(&restored));
        assert_never_back(&self.states);
        all_committed(&self.states, &self.database);
        let mut verify = support::litestream();
        self.bed.run_command(verify.arg("verify").args(self.bed.identity()).arg(self.bed.url())).succeeded();
        if self.network.is_none() {
            self.second_reader_agrees(&restored);
        }
        self.say(&format!("at most {} kB in memory", self.most_memory));
    }
}

/// In kilobytes; 0 where it has ended.
fn peak_memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
