//! A run that was killed has kept page checksums some time before. The application has deleted its WAL: the next run stores what
//! differs, and the generation goes on.

use super::*;
use crate::support::world::World;
use litestream::backup::page_sums_file;

/// Page checksums, differences, nothing encrypted.
const SEED: u64 = 1 | 1 << 9;
const SCHEDULES: u64 = 12;

/// What became of a schedule: whether it is in one generation, with a rollup.
fn goes_on(seed: u64) -> bool {
    let mut world = World::new(&directory(), seed);
    let commits = |world: &mut World, count: u64| {
        for _ in 0..count {
            let now = world.clock.now();
            world.application.commit(&mut world.random, now);
        }
    };
    let pass = |world: &mut World, seconds: u64| world.pass(Duration::from_secs(seconds)).expect("it runs");
    world.start(true).expect("it starts");
    commits(&mut world, 3 + seed % 5);
    (0..20).for_each(|_| pass(&mut world, 30));
    let meta = world.settings.meta();
    let kept = page_sums_file::read_state(&meta).expect("page checksums of the run that goes on");
    commits(&mut world, 1 + seed % 3);
    pass(&mut world, 30);
    world.run = None;
    assert_eq!(page_sums_file::read_state(&meta), Some(kept), "nothing is kept of the last commits");
    commits(&mut world, 1);
    world.application.close();
    world.start(true).expect("it starts");
    pass(&mut world, 30);
    let names = world.memory.names();
    assert_eq!(world.restored().expect("a restore"), world.application.live());
    let rollup = |name: &str| matches!(Key::parse(name), Some(Key::Segment(key)) if key.is_rollup());
    Listing::new(names.clone()).generations().count() == 1 && names.iter().any(|(name, _)| rollup(name))
}

#[test]
fn a_killed_run_whose_wal_is_gone_goes_on_by_what_differs() {
    let _alone = alone();
    log::silence();
    let going_on = (0..SCHEDULES).filter(|number| goes_on(SEED + (number << 12))).count() as u64;
    // A few ask for a full snapshot.
    assert!(going_on * 4 >= SCHEDULES * 3, "{going_on} of {SCHEDULES} go on in their generation");
}
