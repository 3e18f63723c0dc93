//! All databases of a store in one pass over its names, and who replicates to each.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Clock;
use crate::error::Result;
use crate::format::prefixes::ObjectsByPrefix;
use crate::format::stored_databases::StoredDatabases;
use crate::interrupt;
use crate::store::blocking::MAX_SLEEP;
use crate::store::{FindWriters, ScanEvent, ScannedObject, Store, Writer};

/// The databases that are stored.
pub fn survey(store: &dyn Store, clock: &dyn Clock) -> Result<StoredDatabases> {
    scan(store, clock, &mut |seen| {
        if let ScanItem::Object(stored, object) = seen {
            add(stored, &object);
        }
        Ok(())
    })
}

/// Takes in an object; the prefix of its database, if that is new.
fn add<'a>(stored: &mut StoredDatabases, object: &'a ScannedObject) -> Option<&'a str> {
    stored.add(&object.entry.name, object.entry.size, object.description.clone())
}

/// The objects of each database, by its prefix.
pub fn objects_by_prefix(store: &dyn Store, clock: &dyn Clock) -> Result<ObjectsByPrefix> {
    scan(store, clock, &mut |seen| {
        if let ScanItem::Object(objects, object) = seen {
            objects.add(&object.entry.name, object.entry.size);
        }
        Ok(())
    })
}

/// The same, with who replicates to each of them and to those that are `expected`.
pub fn survey_with_writers<'a>(
    store: &dyn Store,
    clock: &dyn Clock,
    expected: impl Iterator<Item = &'a str>,
) -> Result<(StoredDatabases, BTreeMap<String, Writer>)> {
    let mut questions = Questions { search: store.find_writers(), prefixes: Vec::new(), known: BTreeSet::new() };
    expected.for_each(|prefix| questions.query(prefix));
    let stored = scan(store, clock, &mut |seen| match seen {
        ScanItem::Object(stored, object) => {
            if let Some(prefix) = add(stored, &object) {
                questions.query(prefix);
            }
            Ok(())
        }
        ScanItem::Pending => questions.search.poll(clock.now()).map(|_| ()),
    })?;
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
    fn query(&mut self, prefix: &str) {
        if self.known.insert(prefix.to_string()) {
            self.search.query(prefix);
            self.prefixes.push(prefix.to_string());
        }
    }
}

/// What a scan says.
enum ScanItem<'a, T> {
    /// An object, and what was made of those before it.
    Object(&'a mut T, ScannedObject),
    /// The next one has not arrived.
    Pending,
}

/// Takes one name after another, and keeps none.
fn scan<T: Default>(
    store: &dyn Store,
    clock: &dyn Clock,
    take: &mut dyn FnMut(ScanItem<'_, T>) -> Result<()>,
) -> Result<T> {
    let (mut scan, mut taken) = (store.scan(), T::default());
    loop {
        match scan.poll(clock.now())? {
            ScanEvent::Object(object) => take(ScanItem::Object(&mut taken, object))?,
            ScanEvent::Restarted => taken = T::default(),
            ScanEvent::Pending => {
                take(ScanItem::Pending)?;
                interrupt::check()?;
                store.wait(MAX_SLEEP);
            }
            ScanEvent::End => return Ok(taken),
        }
    }
}
