//! Schedules in which a machine is lost and another one takes over what it has stored. The old one comes back now and then,
//! with commits that nobody has seen: it is refused, and stores nothing, until it is let in again. Then the other one is refused.
//! Only one whose database file is what is stored, to the byte, goes on by itself: it cannot be told from one that was restored
//! there. It lacks nothing that is stored.

use std::fs;
use std::time::Duration;

use super::{Model, RECOVERY, Rule};
use crate::support::application::Application;
use crate::support::random::Random;
use crate::support::world::Exit;
use litestream::backup::owner::location_of;
use litestream::clock::Clock;
use litestream::error::Kind;
use litestream::format::owner::{OwnerRecord, number};
use litestream::format::plan::PlanTarget;

/// Machines of a schedule.
const MACHINES: usize = 4;

/// The machines that had the database before.
pub(super) struct Takeovers {
    /// Its schedule is drawn apart, so that all others stay what they are.
    random: Random,
    replaced: Vec<Application>,
    /// How often a machine took over.
    pub taken: usize,
    /// How often one that was replaced was refused because of the record alone: nobody else was there.
    pub refused: usize,
}

impl Takeovers {
    fn any_replaced(&mut self) -> Option<usize> {
        let count = self.replaced.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }
}

impl Model {
    /// The same with other machines. Of encrypted objects another machine has no notes; and a store that forgets would forget
    /// who took over.
    pub(super) fn with_takeovers(mut self) -> Model {
        let random = Random(self.seed ^ 3);
        self.takeovers = Some(Takeovers { random, replaced: Vec::new(), taken: 0, refused: 0 });
        self.world.encrypted = None;
        self.rules.retain(|rule| matches!(rule, Rule::Clock));
        self
    }

    /// Another machine takes over, or an old one comes back.
    pub(super) fn machines_come_and_go(&mut self) {
        let Some(takeovers) = &mut self.takeovers else { return };
        match takeovers.random.below(100) {
            0..6 if takeovers.replaced.len() + 1 < MACHINES => self.new_machine_takes_over(),
            6..8 => self.old_machine_takes_over(),
            8..25 => self.old_machine_comes_back(),
            _ => {}
        }
    }

    /// It restores what is stored, and goes on from there.
    fn new_machine_takes_over(&mut self) {
        let Ok(state) = self.world.restored() else { return };
        let restored = self.committed(&state);
        let image = self.world.image(&PlanTarget::Latest).expect("a restore");
        let Some(takeovers) = &mut self.takeovers else { return };
        let path = self.world.directory.join(format!("machine-{}.db", takeovers.taken));
        fs::write(&path, image).expect("write a restored database");
        if takeovers.random.chance(50) {
            // Else it is only cut off, and its application goes on.
            self.world.application.close();
        }
        let other = self.world.application.on_another_machine(&path, restored);
        self.say(format!("{} takes over at commit {restored}", path.display()));
        self.take_over(other);
    }

    /// The operator lets one in again, whose database lacks what the others have stored since.
    fn old_machine_takes_over(&mut self) {
        let Some(takeovers) = &mut self.takeovers else { return };
        let Some(at) = takeovers.any_replaced() else { return };
        let old = takeovers.replaced.swap_remove(at);
        self.say(format!("{} takes over again", old.path.display()));
        self.newest = None;
        self.take_over(old);
    }

    /// The one before dies. The operator sees to the store, and looks until the new one goes on.
    fn take_over(&mut self, application: Application) {
        self.world.run = None;
        self.world.settings.path = application.path.clone();
        let before = std::mem::replace(&mut self.world.application, application);
        if let Some(takeovers) = &mut self.takeovers {
            takeovers.replaced.push(before);
            takeovers.taken += 1;
        }
        self.store_works();
        // All machines of a test have one name: the file of the one before would be another database that is still there.
        (self.world.settings.takeover, self.world.settings.allow_other_database) = (true, true);
        self.start(true);
        (self.world.settings.takeover, self.world.settings.allow_other_database) = (false, false);
        let begun = self.world.clock.passed();
        while !self.goes_on() {
            assert!(self.world.clock.passed() - begun < RECOVERY, "nothing fails, and it does not take over");
            self.turns(1);
        }
    }

    /// Whether the machine is on record, and what is stored is of its database.
    fn goes_on(&mut self) -> bool {
        let here = location_of(&self.world.application.path);
        self.owner().is_some_and(|owner| owner.location == here)
            && self.world.restored().is_ok_and(|state| self.world.application.number(&state).is_some())
    }

    fn owner(&self) -> Option<OwnerRecord> {
        let objects = self.world.memory.objects.borrow();
        let records = objects.iter().filter_map(|(name, bytes)| Some((number(name)?, bytes)));
        let (number, bytes) = records.max_by_key(|(number, _)| *number)?;
        Some(OwnerRecord::decode(number, bytes).expect("a record"))
    }

    /// One that was replaced does not know that, and tries all that it may.
    fn old_machine_comes_back(&mut self) {
        let Some(takeovers) = &mut self.takeovers else { return };
        let Some(at) = takeovers.any_replaced() else { return };
        let mut old = takeovers.replaced.swap_remove(at);
        let random = &mut takeovers.random;
        if random.chance(60) {
            old.commit(random, self.world.clock.now());
        }
        let (patient, forced) = (random.chance(50), random.chance(30));
        self.say(format!("{} comes back, with {} commits", old.path.display(), old.commits.len()));
        let (stored, newest) = (self.world.objects(), self.world.restored());
        let alone = !self.world.memory.link.is_claimed();
        let (run, settings) = (self.world.run.take(), self.world.settings.clone());
        std::mem::swap(&mut self.world.application, &mut old);
        self.world.settings.path = self.world.application.path.clone();
        self.world.settings.allow_other_database = forced;
        let exit = match self.world.start(patient) {
            Ok(()) => self.world.finish(),
            Err(error) => Exit::Error(error),
        };
        std::mem::swap(&mut self.world.application, &mut old);
        self.world.settings = settings;
        self.world.run = run;
        self.say(format!("it ended: {exit:?}"));
        if self.owner().is_some_and(|owner| owner.location == location_of(&old.path)) {
            // Its file is what is stored, as if it had been restored there: it takes over without being asked to.
            let has_all = newest.as_ref().is_ok_and(|state| old.number(state).is_some());
            assert!(alone && has_all, "a machine that was replaced took over, and lacks what is stored");
            self.say("it lacks nothing that is stored, and goes on".to_string());
            return self.take_over(old);
        }
        let link = &self.world.memory.link;
        let store_fails = link.is_away() || link.failing.get() > 0;
        match &exit {
            Exit::Error(error) if error.kind() == Kind::Locked => assert!(!alone, "nobody else is there"),
            Exit::Error(error) if error.kind() == Kind::TakenOver => {}
            Exit::Error(error) => assert!(store_fails && error.kind() == Kind::StoreUnreachable, "{error}"),
            Exit::NotAllStored => assert!(store_fails, "it was not refused"),
            Exit::Success => panic!("a machine that was replaced went on"),
        }
        assert!(self.world.objects() == stored, "a machine that was replaced has stored something");
        if let Some(takeovers) = &mut self.takeovers {
            takeovers.replaced.push(old);
            takeovers.refused += usize::from(alone && !store_fails);
        }
    }

    /// Whether some machine that was replaced has made this commit.
    pub(super) fn was_committed_elsewhere(&self, state: &str) -> bool {
        let replaced = self.takeovers.iter().flat_map(|takeovers| &takeovers.replaced);
        replaced.into_iter().any(|application| application.number(state).is_some())
    }
}

/// Each in turn: takeovers, and how often one that was replaced was refused.
pub(super) fn run(seed: u64, aloud: bool) -> (usize, usize) {
    let mut model = Model::new(seed, aloud).with_takeovers();
    model.play();
    model.passed = true;
    model.takeovers.as_ref().map_or((0, 0), |takeovers| (takeovers.taken, takeovers.refused))
}

/// How long a plain run of the tests takes.
pub(super) const SECONDS: Duration = Duration::from_secs(5);
