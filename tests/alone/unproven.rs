//! A copy that goes on though nothing could be compared with what is stored: it does not stay without a checksum.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::world::{Said, World};
use litestream::clock::Clock;

const HOUR: Duration = Duration::from_secs(3600);

fn commit(world: &mut World) {
    let now = world.clock.now();
    world.application.commit(&mut world.random, now);
    world.pass(Duration::from_secs(3)).unwrap();
}

fn snapshots(world: &World) -> usize {
    world.objects().keys().filter(|name| name.contains("/snapshots/")).count()
}

fn generation(name: &str) -> Option<String> {
    Some(name.strip_prefix("generations/")?.split_once('/')?.0.to_string()).filter(|name| name.len() == 16)
}

/// A checkpoint wrote newer pages over those of the stored end, while nobody looked: a start finds its place in the WAL, and
/// cannot tell what the database was there.
fn unproven(seed: u64) -> World {
    let directory = std::env::temp_dir().join(format!("litestream-unproven-{}", std::process::id()));
    let mut world = World::new(&directory, seed);
    world.settings.snapshot_interval = Some(HOUR * 24 * 365);
    world.settings.comparison = None;
    // The WAL is made shorter whenever all of it is in the database file.
    (world.settings.source.checkpoint_frames, world.settings.source.truncate_frames) = (1, Some(0));
    world.start(true).unwrap();
    world.pass(Duration::from_secs(5)).unwrap();
    world.application.checkpoint("TRUNCATE");
    let now = world.clock.now();
    world.application.commit(&mut world.random, now);
    // This reader keeps the WAL from being restarted.
    world.application.read();
    world.pass(Duration::from_secs(3)).unwrap();
    world.run = None;
    world.application.vacuum();
    world.application.commit(&mut world.random, now);
    world.application.end_reading();
    world.application.checkpoint("PASSIVE");
    world.start(true).unwrap();
    world.pass(Duration::from_secs(3)).unwrap();
    commit(&mut world);
    world
}

#[test]
fn a_copy_that_was_not_compared_is_made_sure_of_soon() {
    let _alone = alone();
    // With and without page checksums beside the lock; the first bit is what the checksum needs.
    for seed in [1, 1 | 1 << 9] {
        let mut world = unproven(seed);
        let before = snapshots(&world);
        assert!(!world.is_live_image_stored(), "seed {seed}: its checksum was to be unknown");
        world.pass(HOUR / 2).unwrap();
        commit(&mut world);
        assert_eq!(snapshots(&world), before, "seed {seed}: it costs the whole database");
        world.pass(HOUR / 2 + Duration::from_secs(60)).unwrap();
        commit(&mut world);
        assert_eq!(snapshots(&world), before + 1, "seed {seed}");
        assert!(world.is_live_image_stored(), "seed {seed}: from the snapshot on, it is known");
        // Once is enough.
        world.pass(HOUR * 3).unwrap();
        commit(&mut world);
        assert_eq!(snapshots(&world), before + 1, "seed {seed}");
    }
}

#[test]
fn status_is_ok_though_no_checksum_is_stored() {
    let _alone = alone();
    let mut world = unproven(1);
    assert!(!world.is_live_image_stored(), "its checksum was to be unknown");
    world.pass(Duration::from_secs(90)).unwrap();
    commit(&mut world);
    world.pass(Duration::from_secs(90)).unwrap();
    assert!(world.says_all_is_stored().is_some());
    // It is killed, before or after it has left a note; the application goes on without a commit.
    world.run = None;
    assert_eq!(world.status(), Said::Ok);
    world.start(true).unwrap();
    world.pass(Duration::from_secs(3)).unwrap();
    let generations: BTreeSet<String> = world.objects().keys().filter_map(|name| generation(name)).collect();
    assert_eq!(generations.len(), 1, "the next start goes on: {generations:?}");
}
