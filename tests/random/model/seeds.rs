//! The seeds of the schedules of tests/random/model.rs: those that are kept, new ones, and what one decides beside the steps.

use std::fs;
use std::io::Write as _;
use std::time::SystemTime;

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/model-seeds");

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

/// Lines of `store seed`; what follows a # is why.
pub fn kept_seeds(store: &str) -> Vec<u64> {
    let text = fs::read_to_string(SEEDS).expect("read tests/data/model-seeds");
    let seed = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ours = words.next()? == store;
        ours.then(|| words.next().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| panic!("no seed in {line:?}")))
    };
    text.lines().filter_map(seed).collect()
}

pub fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    u64::from(now.subsec_nanos()) ^ now.as_secs() & 0xffff_ffff
}

/// A quarter of the schedules is encrypted. What happens in them does not depend on it.
pub fn is_encrypted(seed: u64) -> bool {
    seed >> 7 & 3 == 3
}

/// Says which seed failed, and keeps it where nobody is there to read it.
pub struct Keeper<'a> {
    store: &'a str,
    seed: u64,
}

impl Keeper<'_> {
    pub fn new(store: &str, seed: u64) -> Keeper<'_> {
        Keeper { store, seed }
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("failed: MODEL_SEED={} on {}", self.seed, self.store);
        if number("MODEL_SECONDS").is_some() {
            let mut file = fs::OpenOptions::new().append(true).open(SEEDS).expect("open tests/data/model-seeds");
            writeln!(file, "{} {}", self.store, self.seed).expect("keep the seed");
        }
    }
}
