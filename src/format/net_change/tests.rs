use std::collections::BTreeSet;

use super::*;
use crate::format::fixtures::{Random, size};
use crate::format::page_diff::PageDiffer;

const PAGE: usize = 512;
const PLENTY: usize = 1 << 30;

/// A database as its pages.
type Database = Vec<Vec<u8>>;

/// What is stored of a history.
#[derive(Clone)]
enum Change {
    Page(u32, PageDelta),
    Commit(u32),
}

fn noise(random: &mut Random) -> Vec<u8> {
    (0..PAGE).map(|_| random.below(256) as u8).collect()
}

fn page(database: &Database, number: u32) -> Vec<u8> {
    database.get(number as usize - 1).cloned().unwrap_or_else(|| vec![0; PAGE])
}

fn put(database: &mut Database, number: u32, page: Vec<u8>) {
    let length = database.len().max(number as usize);
    database.resize(length, vec![0; PAGE]);
    database[number as usize - 1] = page;
}

/// Some transactions, each of which writes pages and leaves the database longer or shorter, and what they leave.
fn history(random: &mut Random, database: &mut Database, commits: u64) -> Vec<Change> {
    let (mut changes, mut differ) = (Vec::new(), PageDiffer::default());
    for _ in 0..commits {
        let pages = 1 + random.below(12) as u32;
        for _ in 0..random.below(6) {
            // Also pages that the commit cuts off again.
            let number = 1 + random.below(14) as u32;
            let old = page(database, number);
            let mut new = old.clone();
            match random.below(4) {
                0 => new = noise(random),
                1 => new.fill(0),
                _ => {
                    let (from, to, len) = (random.below(256), random.below(256), random.below(256));
                    new.copy_within(from as usize..(from + len) as usize, to as usize);
                    new[random.below(512) as usize] ^= 1;
                }
            }
            changes.push(Change::Page(number, differ.diff(&old, &new).clone()));
            put(database, number, new);
        }
        database.resize(pages as usize, vec![0; PAGE]);
        changes.push(Change::Commit(pages));
    }
    changes
}

fn net(changes: &[Change], from: u32, max_bytes: usize) -> NetChange {
    let mut net = NetChange::new(size(PAGE as u32), from, max_bytes);
    for change in changes {
        match change {
            Change::Page(number, delta) => net.page(*number, delta.clone()).unwrap(),
            Change::Commit(pages) => net.commit(*pages),
        }
    }
    net
}

/// The same as stored changes: what a net change says of itself.
fn as_changes(net: &NetChange) -> Vec<Change> {
    let pages = net.pages().map(|(number, delta)| Change::Page(number, delta.clone()));
    [Change::Commit(net.least())].into_iter().chain(pages).chain([Change::Commit(net.size())]).collect()
}

fn applied(changes: &[Change], mut database: Database) -> Database {
    for change in changes {
        match change {
            Change::Page(number, delta) => {
                let mut new = vec![0; PAGE];
                delta.apply(&page(&database, *number), &mut new).unwrap();
                put(&mut database, *number, new);
            }
            Change::Commit(pages) => database.resize(*pages as usize, vec![0; PAGE]),
        }
    }
    database
}

fn start(random: &mut Random) -> Database {
    (0..1 + random.below(12)).map(|_| noise(random)).collect()
}

#[test]
fn net_change_leads_where_the_changes_lead_one_by_one() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let before = start(&mut random);
        let mut after = before.clone();
        let commits = 1 + random.below(9);
        let changes = history(&mut random, &mut after, commits);
        assert!(applied(&changes, before.clone()) == after, "seed {seed}");
        let net = net(&changes, 1, PLENTY);
        assert!(applied(&as_changes(&net), before) == after, "seed {seed}");
        assert_eq!(net.size() as usize, after.len());
        let numbers: Vec<u32> = net.pages().map(|(number, _)| number).collect();
        assert!(numbers.is_sorted() && numbers.iter().all(|number| *number <= net.size()), "seed {seed}");
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        for (number, delta) in net.pages().filter(|(number, _)| *number > net.least()) {
            assert!(delta.is_whole(), "seed {seed}: page {number}");
        }
    }
}

#[test]
fn net_changes_of_net_changes_lead_to_the_same() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let before = start(&mut random);
        let mut after = before.clone();
        let parts: Vec<Vec<Change>> = (0..3).map(|_| history(&mut random, &mut after, 3)).collect();
        let single: Vec<Vec<Change>> = parts.iter().map(|part| as_changes(&net(part, 1, PLENTY))).collect();
        let first = as_changes(&net(&single[..2].concat(), 1, PLENTY));
        let last = as_changes(&net(&single[1..].concat(), 1, PLENTY));
        for grouped in [[&first[..], &single[2]], [&single[0], &last[..]]] {
            let all = net(&grouped.concat(), 1, PLENTY);
            assert!(applied(&as_changes(&all), before.clone()) == after, "seed {seed}");
        }
    }
}

#[test]
fn several_passes_in_little_memory_give_the_pages_of_one() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut database = start(&mut random);
        let changes = history(&mut random, &mut database, 12);
        let whole = net(&changes, 1, PLENTY);
        let (mut pages, mut from, mut passes) = (Vec::new(), Some(1), 0);
        while let Some(first) = from {
            let some = net(&changes, first, 2_000);
            assert_eq!((some.least(), some.size()), (whole.least(), whole.size()));
            pages.extend(some.pages().map(|(number, delta)| (number, delta.clone())));
            (from, passes) = (some.next_pass(), passes + 1);
        }
        assert!(passes > 1 || pages.len() < 4, "seed {seed}");
        let expected: Vec<(u32, PageDelta)> = whole.pages().map(|(number, delta)| (number, delta.clone())).collect();
        assert!(pages == expected, "seed {seed}");
    }
}

#[test]
fn a_page_of_another_size_is_refused() {
    let mut net = NetChange::new(size(512), 1, PLENTY);
    net.commit(1);
    assert_eq!(net.page(2, PageDelta::identity(1024)).unwrap_err().kind(), crate::error::Kind::Corrupt);
}
