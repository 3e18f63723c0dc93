//! All databases of a store in one pass over its names, and who replicates to each.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Clock;
use crate::error::Result;
use crate::format::stored_databases::StoredDatabases;
use crate::interrupt;
use crate::store::blocking::MAX_SLEEP;
use crate::store::{FindWriters, ScanEvent, ScannedObject, Store, Writer};

/// The databases that are stored.
pub fn survey(store: &dyn Store, clock: &dyn Clock) -> Result<StoredDatabases> {
    scan(store, clock, None)
}

/// The same, with who replicates to each of them and to those that are `expected`.
pub fn survey_with_writers<'a>(
    store: &dyn Store,
    clock: &dyn Clock,
    expected: impl Iterator<Item = &'a str>,
) -> Result<(StoredDatabases, BTreeMap<String, Writer>)> {
    let mut questions = Questions { search: store.find_writers(), prefixes: Vec::new(), known: BTreeSet::new() };
    expected.for_each(|prefix| questions.ask(prefix));
    let stored = scan(store, clock, Some(&mut questions))?;
    while !questions.search.poll(clock.now())? {
        interrupt::check()?;
        store.wait(MAX_SLEEP);
    }
    let writers = questions.prefixes.into_iter().zip(questions.search.answers()).collect();
    Ok((stored, writers))
}

/// The prefixes whose writers are asked for. A replicator at rest takes its time for an answer, so each is asked as soon as
/// its database is seen.
struct Questions {
    search: Box<dyn FindWriters>,
    /// In the order of the questions.
    prefixes: Vec<String>,
    known: BTreeSet<String>,
}

impl Questions {
    fn ask(&mut self, prefix: &str) {
        if self.known.insert(prefix.to_string()) {
            self.search.ask(prefix);
            self.prefixes.push(prefix.to_string());
        }
    }
}

fn scan(store: &dyn Store, clock: &dyn Clock, mut questions: Option<&mut Questions>) -> Result<StoredDatabases> {
    let (mut scan, mut stored) = (store.scan(), StoredDatabases::default());
    loop {
        match scan.poll(clock.now())? {
            ScanEvent::Object(ScannedObject { entry, description }) => {
                let new = stored.add(&entry.name, entry.size, description);
                if let (Some(prefix), Some(questions)) = (new, &mut questions) {
                    questions.ask(prefix);
                }
            }
            ScanEvent::Restarted => stored = StoredDatabases::default(),
            ScanEvent::Pending => {
                if let Some(questions) = &mut questions {
                    questions.search.poll(clock.now())?;
                }
                interrupt::check()?;
                store.wait(MAX_SLEEP);
            }
            ScanEvent::End => return Ok(stored),
        }
    }
}
