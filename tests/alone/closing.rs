//! The end of a run: what was committed when it was asked for is stored, and it comes.

use std::time::Duration;

use crate::support::alone::alone;
use crate::support::world::{Exit, World};
use litestream::clock::Clock;

/// Half of what a run is given to end.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn the_end_comes_beside_an_application_that_never_pauses() {
    let _alone = alone();
    let directory = std::env::temp_dir().join(format!("litestream-closing-{}", std::process::id()));
    for seed in 0..4 {
        let mut world = World::new(&directory, seed);
        let commit = |world: &mut World| {
            let now = world.clock.now();
            world.application.commit(&mut world.random, now);
        };
        world.start(true).unwrap();
        world.pass(Duration::from_secs(5)).unwrap();
        commit(&mut world);
        // The store answers slowly: there is always something new after what it was asked for.
        world.memory.link.delay.set(40);
        let (before, begun) = (world.application.commits.len() - 1, world.clock.now());
        assert!(matches!(world.finish_while(commit), Exit::Success), "seed {seed}");
        assert!(world.clock.now() - begun < SOON, "seed {seed}: after {:?}", world.clock.now() - begun);
        assert!(world.application.commits.len() - 1 > before + 10, "it was to be busy");
        let restored = world.restored().unwrap();
        assert!(world.application.number(&restored) >= Some(before), "seed {seed}");
    }
}
