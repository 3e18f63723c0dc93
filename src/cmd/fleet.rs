//! The databases that `replicate` follows: they come and go, and none of them disturbs the others.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::System;
use crate::cmd::poll::Poll;
use crate::cmd::restoring::{self, Restoring};
use crate::cmd::service;
use crate::config::Database;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::replica::follow::{Follower, Settings};
use crate::store::Pool;

/// A database that came later and cannot be followed is tried again after this.
const RETRY: Duration = Duration::from_secs(60);

/// Who is followed, who should be, and who is on the way out.
pub struct Fleet {
    pub poll: Poll,
    wanted: Vec<Database>,
    /// How those that are followed were configured.
    running: Vec<Database>,
    /// Until when the last sync of one that goes may take.
    leaving: HashMap<String, Instant>,
    put_off: HashMap<String, Instant>,
    /// Those that are restored before they are followed.
    restoring: HashMap<String, Restoring>,
    /// Those that came later than the run: their errors are their own.
    late: HashSet<String>,
    patience: Duration,
    create_bucket: bool,
    pool: Pool,
}

impl Fleet {
    /// Nobody yet. `patience` is how long the last sync of a database that goes may take.
    pub fn new(tick: Duration, patience: Duration, create_bucket: bool) -> Fleet {
        Fleet {
            poll: Poll::new(Vec::new(), tick),
            wanted: Vec::new(),
            running: Vec::new(),
            leaving: HashMap::new(),
            put_off: HashMap::new(),
            restoring: HashMap::new(),
            late: HashSet::new(),
            patience,
            create_bucket,
            pool: Pool::default(),
        }
    }

    /// Adds a database that the run begins with: its trouble is the run's.
    pub fn add(&mut self, database: &Database, follower: Follower) {
        log::info("replicating").field("db", follower.name()).field("to", &database.replica.url).emit();
        self.wanted.push(database.clone());
        self.running.push(database.clone());
        self.poll.followers.push(follower);
    }

    /// Adds a database that cannot be followed now, beside others that can: it is tried again.
    pub fn add_later(&mut self, database: &Database, error: &Error) {
        let name = database.path.display().to_string();
        self.wanted.push(database.clone());
        self.put_off(&name, error);
        self.late.insert(name);
    }

    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// What is followed from now on. One whose settings changed goes, and comes again with the new ones.
    pub fn want(&mut self, databases: Vec<Database>, now: Instant) {
        self.wanted = databases;
        self.put_off.clear();
        let unwanted = |restoring: &&Restoring| !self.wanted.contains(restoring.database());
        self.restoring.values().filter(unwanted).for_each(Restoring::stop);
        for follower in &mut self.poll.followers {
            let name = follower.name().to_string();
            let stays = self.running.iter().any(|database| called(database, &name) && self.wanted.contains(database));
            if !stays && !self.leaving.contains_key(&name) {
                log::info("letting go").field("db", &name).emit();
                follower.close();
                self.leaving.insert(name, now + self.patience);
            }
        }
    }

    pub fn wanted(&self) -> &[Database] {
        &self.wanted
    }

    /// Whether there is somebody to follow, and everyone who is wanted is followed.
    pub fn is_complete(&self) -> bool {
        !self.wanted.is_empty() && self.wanted.iter().all(|database| self.follows(database))
    }

    /// Errors: of kind `Database`, naming a database that could not be followed to the end.
    pub fn check_complete(&self) -> Result<()> {
        match self.wanted.iter().find(|database| !self.follows(database)) {
            None => Ok(()),
            Some(database) => {
                let what =
                    format!("database {}: it could not be followed, so it is not stored", database.path.display());
                Err(Error::new(Kind::Database, what).with_hint("the log says why; the other databases were followed"))
            }
        }
    }

    fn follows(&self, database: &Database) -> bool {
        self.poll.followers.iter().any(|follower| called(database, follower.name()))
    }

    /// Lets everyone make progress; ends those who are done, and begins those who are wanted.
    ///
    /// Errors: of a database that the run began with, which is let go. Others are tried again later.
    pub fn turn(&mut self, until: Instant) -> Result<()> {
        if let Err((name, error)) = self.poll.turn(until) {
            self.drop_follower(&name);
            let is_own = self.wanted.len() > 1 && error.kind().is_of_one_database();
            if !is_own && !self.late.contains(&name) {
                return Err(error);
            }
            self.late.insert(name.clone());
            self.put_off(&name, &error);
        }
        self.end_those_who_left();
        self.begin_those_who_are_wanted();
        Ok(())
    }

    fn end_those_who_left(&mut self) {
        let now = System.now();
        let done = |name: &str, deadline: &Instant, poll: &Poll| {
            let follower = poll.followers.iter().find(|follower| follower.name() == name);
            follower.is_none_or(|follower| follower.is_settled() || now >= *deadline)
        };
        let gone: Vec<String> = self
            .leaving
            .iter()
            .filter(|(name, deadline)| done(name, deadline, &self.poll))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let settled = self.poll.followers.iter().find(|f| f.name() == name).is_none_or(Follower::is_settled);
            match settled {
                true => log::info("let go, all is stored").field("db", &name).emit(),
                false => log::error("let go, but not all is stored").field("db", &name).emit(),
            }
            self.leaving.remove(&name);
            self.drop_follower(&name);
        }
    }

    fn drop_follower(&mut self, name: &str) {
        self.poll.followers.retain(|follower| follower.name() != name);
        self.running.retain(|database| !called(database, name));
    }

    fn begin_those_who_are_wanted(&mut self) {
        let now = System.now();
        self.restoring.retain(|_, restoring| !restoring.is_stopped() || restoring.ended().is_none());
        let missing = |database: &&Database| {
            let name = database.path.display().to_string();
            !self.follows(database) && self.put_off.get(&name).is_none_or(|until| now >= *until)
        };
        let missing: Vec<Database> = self.wanted.iter().filter(missing).cloned().collect();
        for database in missing {
            let name = database.path.display().to_string();
            match self.is_restored(&name, &database) {
                Ok(true) => self.begin(name, database, now),
                Ok(false) => {}
                Err(error) => self.put_off(&name, &error),
            }
        }
    }

    /// Whether a database may be followed; its restore is begun where one is due.
    fn is_restored(&mut self, name: &str, database: &Database) -> Result<bool> {
        if let Some(restoring) = self.restoring.get(name) {
            // One that is not wanted like this any more is waited for too: two would write to the same file.
            let Some(ended) = restoring.ended() else { return Ok(false) };
            let stopped = restoring.is_stopped();
            self.restoring.remove(name);
            return if stopped { Ok(false) } else { ended.map(|()| true) };
        }
        if restoring::is_due(database) {
            self.restoring.insert(name.to_string(), Restoring::begin(database, self.create_bucket)?);
            return Ok(false);
        }
        Ok(true)
    }

    fn begin(&mut self, name: String, database: Database, now: Instant) {
        let settings = Settings { keep_note: true, ..service::settings(&database, true) };
        match service::follower(&database, settings, self.create_bucket, &mut self.pool, now) {
            Ok(follower) => {
                log::info("replicating").field("db", &name).field("to", &database.replica.url).emit();
                self.poll.quicken(database.monitor_interval);
                self.late.insert(name);
                self.running.push(database);
                self.poll.followers.push(follower);
            }
            Err(error) => self.put_off(&name, &error),
        }
    }

    fn put_off(&mut self, name: &str, error: &Error) {
        log::error("cannot be followed, trying again in a minute").field("db", name).cause(error).emit();
        self.put_off.insert(name.to_string(), System.now() + RETRY);
    }
}

fn called(database: &Database, name: &str) -> bool {
    database.path.display().to_string() == name
}
