//! How many segments a replicator stores while a standby listens: each commit has its own, unless the store is slow.

use std::time::Duration;

use crate::support::alone::alone;
use crate::support::world::World;
use litestream::clock::Clock;

const COMMITS: usize = 20;

/// Segments of twenty commits in this distance, with a sync interval of ten seconds: those that are stored right after the last
/// commit, and all. `before` happens while it runs, just before the first of them.
fn segments(configure: fn(&mut World), before: fn(&mut World), distance: Duration) -> (usize, usize) {
    let directory = std::env::temp_dir().join(format!("litestream-listening-{}", std::process::id()));
    let mut world = World::new(&directory, 0);
    world.settings.sync_interval = Duration::from_secs(10);
    world.settings.compaction = false;
    world.settings.max_backlog = 1 << 30;
    configure(&mut world);
    world.start(true).unwrap();
    world.pass(Duration::from_secs(20)).unwrap();
    before(&mut world);
    let stored = |world: &World| world.objects().keys().filter(|name| name.contains("/wal/")).count();
    let before = stored(&world);
    for _ in 0..COMMITS {
        let now = world.clock.now();
        world.application.commit(&mut world.random, now);
        world.pass(distance).unwrap();
    }
    let at_once = stored(&world) - before;
    // However it was told: all of it is stored in the end.
    world.pass(Duration::from_secs(20)).unwrap();
    let restored = world.restored().unwrap();
    assert_eq!(world.application.number(&restored), Some(world.application.commits.len() - 1));
    (at_once, stored(&world) - before)
}

fn listens(world: &mut World) {
    world.memory.link.standby.set(Some(Duration::MAX));
}

fn nothing(_: &mut World) {}

/// Twenty commits in two seconds.
const OFTEN: Duration = Duration::from_millis(100);

#[test]
fn a_standby_that_listens_gets_each_commit_at_once() {
    let _alone = alone();
    assert_eq!(segments(listens, nothing, OFTEN).0, COMMITS);
}

#[test]
fn without_a_standby_the_sync_interval_is_kept() {
    let _alone = alone();
    assert!(segments(nothing, nothing, OFTEN).0 <= 2);
    // One that is gone is not waited for.
    let goes = |world: &mut World| {
        world.memory.link.standby.set(None);
        world.pass(Duration::from_secs(21)).unwrap();
    };
    assert!(segments(listens, goes, OFTEN).0 <= 2);
}

#[test]
fn a_sync_interval_that_was_set_is_kept() {
    let _alone = alone();
    let set = |world: &mut World| {
        listens(world);
        world.settings.serves_standbys = false;
    };
    assert!(segments(set, nothing, OFTEN).0 <= 2);
}

/// A put takes a tenth of a second: what is committed meanwhile shares a segment, and no queue grows.
#[test]
fn commits_share_a_segment_while_the_store_is_slow() {
    let _alone = alone();
    let slow = |world: &mut World| {
        listens(world);
        world.memory.link.delay.set(40);
    };
    let (_, segments) = segments(slow, nothing, Duration::from_millis(10));
    assert!((2..=COMMITS / 2).contains(&segments), "{segments} segments");
}
