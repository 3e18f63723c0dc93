//! The databases that `replicate` follows: they come and go, and none of them disturbs the others.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::event_loop::EventLoop;
use crate::cmd::find_databases::Unusable;
use crate::cmd::link_watch::LinkWatch;
use crate::cmd::restore_missing::{self, BackgroundRestore};
use crate::cmd::wiring;
use crate::config::Database;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::replica::replicator::{Replicator, Settings};
use crate::store::ConnectionPool;
use crate::store::traffic::Traffic;

/// A database that came later and cannot be followed is tried again after this.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// Who is followed, who should be, and who is on the way out.
pub struct Supervisor {
    pub event_loop: EventLoop,
    desired: Vec<Database>,
    /// What should be followed, and cannot be.
    unusable: Vec<Unusable>,
    /// How those that are followed were configured.
    configured: Vec<Database>,
    /// Until when the last sync of one that goes may take.
    stopping: HashMap<String, Instant>,
    retry_at: HashMap<String, Instant>,
    links: LinkWatch,
    /// Those that are restored before they are followed.
    restoring: HashMap<String, BackgroundRestore>,
    /// Those that came later than the run: their errors are their own.
    added_at_runtime: HashSet<String>,
    stop_timeout: Duration,
    create_bucket: bool,
    pool: ConnectionPool,
}

impl Supervisor {
    /// Nobody yet. `stop_timeout` is how long the last sync of a database that goes may take.
    pub fn new(tick: Duration, stop_timeout: Duration, create_bucket: bool) -> Supervisor {
        Supervisor {
            event_loop: EventLoop::new(Vec::new(), tick),
            desired: Vec::new(),
            unusable: Vec::new(),
            configured: Vec::new(),
            stopping: HashMap::new(),
            retry_at: HashMap::new(),
            links: LinkWatch::default(),
            restoring: HashMap::new(),
            added_at_runtime: HashSet::new(),
            stop_timeout,
            create_bucket,
            pool: ConnectionPool::default(),
        }
    }

    /// Adds a database that the run begins with: its trouble is the run's.
    pub fn add(&mut self, database: &Database, replicator: Replicator) {
        log_replicating(database);
        self.desired.push(database.clone());
        self.configured.push(database.clone());
        self.event_loop.replicators.push(replicator);
    }

    /// Adds a database that cannot be followed now, beside others that can: it is tried again.
    pub fn add_later(&mut self, database: &Database, error: &Error) {
        let name = database.path.display().to_string();
        self.desired.push(database.clone());
        self.retry_later(&name, error);
        self.added_at_runtime.insert(name);
    }

    /// What has gone over each link, by the servers that it is to.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        self.pool.traffic()
    }

    pub fn event_loop_and_pool(&mut self) -> (&mut EventLoop, &mut ConnectionPool) {
        (&mut self.event_loop, &mut self.pool)
    }

    pub fn pool(&mut self) -> &mut ConnectionPool {
        &mut self.pool
    }

    /// What is followed from now on. One whose settings changed goes, and comes again with the new ones.
    pub fn set_desired(&mut self, databases: Vec<Database>, now: Instant) {
        self.desired = databases;
        self.retry_at.clear();
        let unwanted = |restoring: &&BackgroundRestore| !self.desired.contains(restoring.database());
        self.restoring.values().filter(unwanted).for_each(BackgroundRestore::cancel);
        for replicator in &mut self.event_loop.replicators {
            let name = replicator.name().to_string();
            let stays =
                self.configured.iter().any(|database| has_path(database, &name) && self.desired.contains(database));
            if !stays && !self.stopping.contains_key(&name) {
                log::info("stopping replication").field("db", &name).emit();
                replicator.close();
                self.stopping.insert(name, now + self.stop_timeout);
            }
        }
    }

    /// What should be followed from now on, and cannot be: each path is logged when it comes, and when its reason changes.
    pub fn set_unusable(&mut self, unusable: Vec<Unusable>) {
        let identity = |one: &Unusable| (one.path().to_path_buf(), one.error.message().to_string());
        if !unusable.iter().map(identity).eq(self.unusable.iter().map(identity)) {
            let known: HashSet<_> = self.unusable.iter().map(identity).collect();
            for one in unusable.iter().filter(|one| !known.contains(&identity(one))) {
                log::warn("path cannot be replicated").field("path", one.path().display()).error(&one.error).emit();
            }
        }
        self.unusable = unusable;
    }

    pub fn unusable(&self) -> &[Unusable] {
        &self.unusable
    }

    /// Lets go of databases whose path leads to another file now: they begin again there.
    fn follow_links(&mut self, now: Instant) {
        let paths = self.event_loop.replicators.iter().map(|replicator| Path::new(replicator.name()));
        for moved in self.links.poll(paths, now) {
            let name = moved.path.display().to_string();
            let Some(replicator) = self.event_loop.replicators.iter_mut().find(|one| one.name() == name) else {
                continue;
            };
            if self.stopping.contains_key(&name) {
                continue;
            }
            log::warn("path leads to another file, replication starts again there")
                .field("db", &name)
                .field("was", moved.was.display())
                .field("to", moved.is.display())
                .emit();
            replicator.close();
            self.stopping.insert(name, now + self.stop_timeout);
        }
    }

    pub fn wanted(&self) -> &[Database] {
        &self.desired
    }

    /// Whether there are databases to replicate, and each of them is replicated, and everything else that should be.
    pub fn all_running(&self) -> bool {
        let running = self.running();
        !self.desired.is_empty()
            && self.unusable.is_empty()
            && self.desired.iter().all(|database| running.contains(&*name_of(database)))
    }

    /// The names of those that are followed.
    fn running(&self) -> HashSet<&str> {
        self.event_loop.replicators.iter().map(Replicator::name).collect()
    }

    /// Errors: of kind `Database`, naming a database that could not be followed to the end.
    pub fn require_all_running(&mut self) -> Result<()> {
        let paths = self.desired.iter().map(|database| database.path.as_path());
        if let Some(moved) = self.links.look(paths, true).pop() {
            let what = format!("database {}: leads to {} now", moved.path.display(), moved.is.display());
            let hint = format!("what was stored is {}; the next start replicates the other file", moved.was.display());
            return Err(Error::new(Kind::Database, what).with_hint(hint));
        }
        match self.desired.iter().find(|database| !self.is_replicating(database)) {
            None => {
                self.require_files().and_then(|()| self.unusable.first().map_or(Ok(()), |one| Err(one.error.clone())))
            }
            Some(database) => {
                let what = format!("database {}: could not be replicated", database.path.display());
                Err(Error::new(Kind::Database, what).with_hint("see the log; the other databases were replicated"))
            }
        }
    }

    /// A database that came while the run went on, by SIGHUP say, was to be stored. One that was named at the start may be
    /// made later by its application.
    ///
    /// Errors: of kind `Database`, if its file has never been there.
    fn require_files(&self) -> Result<()> {
        let came_later = |name: &str| self.added_at_runtime.contains(name);
        let missing = self.event_loop.replicators.iter().find(|replicator| {
            let name = replicator.name();
            came_later(name) && !has_stored(replicator) && !Path::new(name).exists()
        });
        match missing {
            None => Ok(()),
            Some(replicator) => {
                let what = format!("database {}: no such file, nothing of it is stored", replicator.name());
                Err(Error::new(Kind::Database, what).with_hint("check its path in the configuration"))
            }
        }
    }

    fn is_replicating(&self, database: &Database) -> bool {
        self.event_loop.replicators.iter().any(|replicator| has_path(database, replicator.name()))
    }

    /// Lets everyone make progress; ends those who are done, and begins those who are wanted.
    ///
    /// Errors: of a database that the run began with, which is let go, if it is not about that one alone. Others are tried
    /// again later. But where other processes have them all, this run is one too many; and one that another replicator has
    /// taken over is not taken back: the operator decides.
    pub fn step(&mut self, until: Instant) -> Result<()> {
        if let Err((name, error)) = self.event_loop.run_once(until) {
            let begun = self.event_loop.replicators.iter().any(|one| one.name() == name && one.has_begun());
            self.remove(&name);
            let one_too_many = error.kind() == Kind::TakenOver
                || (error.kind() == Kind::Locked && (begun || self.event_loop.replicators.is_empty()));
            let is_own = self.desired.len() > 1 && error.kind().concerns_one_database() && !one_too_many;
            if !is_own && !self.added_at_runtime.contains(&name) {
                return Err(error);
            }
            self.added_at_runtime.insert(name.clone());
            self.retry_later(&name, &error);
        }
        self.follow_links(SystemClock.now());
        self.reap_stopped();
        self.start_missing();
        Ok(())
    }

    fn reap_stopped(&mut self) {
        let now = SystemClock.now();
        let done = |name: &str, deadline: &Instant, poll: &EventLoop| {
            let replicator = poll.replicators.iter().find(|replicator| replicator.name() == name);
            replicator.is_none_or(|replicator| replicator.is_drained() || now >= *deadline)
        };
        let gone: Vec<String> = self
            .stopping
            .iter()
            .filter(|(name, deadline)| done(name, deadline, &self.event_loop))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let settled = self.event_loop.replicators.iter().find(|f| f.name() == name).is_none_or(is_stored);
            match settled {
                true => log::info("replication stopped, everything is stored").field("db", &name).emit(),
                false => log::error("replication stopped with unstored commits").field("db", &name).emit(),
            }
            self.stopping.remove(&name);
            self.remove(&name);
        }
    }

    fn remove(&mut self, name: &str) {
        self.event_loop.replicators.retain(|replicator| replicator.name() != name);
        self.configured.retain(|database| !has_path(database, name));
        self.links.forget(Path::new(name));
    }

    fn start_missing(&mut self) {
        let now = SystemClock.now();
        self.restoring.retain(|_, restoring| !restoring.is_cancelled() || restoring.try_result().is_none());
        // At each turn: with a thousand databases, none may be compared with each other one.
        let running = self.running();
        let missing = |database: &&Database| {
            let name = name_of(database);
            !running.contains(&*name) && self.retry_at.get(&*name).is_none_or(|until| now >= *until)
        };
        let missing: Vec<Database> = self.desired.iter().filter(missing).cloned().collect();
        for database in missing {
            let name = database.path.display().to_string();
            match self.restore_finished(&name, &database) {
                Ok(true) => self.start(name, database, now),
                Ok(false) => {}
                Err(error) => self.retry_later(&name, &error),
            }
        }
    }

    /// Whether a database may be followed; its restore is begun where one is due.
    fn restore_finished(&mut self, name: &str, database: &Database) -> Result<bool> {
        if let Some(restoring) = self.restoring.get(name) {
            // One that is not wanted like this any more is waited for too: two would write to the same file.
            let Some(ended) = restoring.try_result() else { return Ok(false) };
            let stopped = restoring.is_cancelled();
            self.restoring.remove(name);
            return if stopped { Ok(false) } else { ended.map(|()| true) };
        }
        if restore_missing::is_needed(database) {
            self.restoring.insert(name.to_string(), BackgroundRestore::start(database, self.create_bucket)?);
            return Ok(false);
        }
        Ok(true)
    }

    fn start(&mut self, name: String, database: Database, now: Instant) {
        let settings =
            Settings { keep_note: true, keep_page_sums: true, ..wiring::replicator_settings(&database, true) };
        match wiring::new_replicator(&database, settings, self.create_bucket, &mut self.pool, now) {
            Ok(replicator) => {
                log_replicating(&database);
                self.event_loop.set_min_interval(database.monitor_interval);
                self.added_at_runtime.insert(name);
                self.configured.push(database);
                self.event_loop.replicators.push(replicator);
            }
            Err(error) => self.retry_later(&name, &error),
        }
    }

    fn retry_later(&mut self, name: &str, error: &Error) {
        log::error("cannot replicate, retrying in 1m").field("db", name).error(error).emit();
        self.retry_at.insert(name.to_string(), SystemClock.now() + RETRY_DELAY);
    }
}

fn log_replicating(database: &Database) {
    for replica in &database.replicas {
        log::info("replicating").field("db", database.path.display()).field("to", &replica.url).emit();
    }
}

/// Whether something is stored in a replica.
fn has_stored(replicator: &Replicator) -> bool {
    replicator.statuses(&SystemClock).iter().any(|status| status.stored.is_some())
}

/// Whether all that was committed is stored in every replica.
fn is_stored(replicator: &Replicator) -> bool {
    replicator.is_drained() && !replicator.has_failures()
}

fn has_path(database: &Database, name: &str) -> bool {
    name_of(database) == name
}

/// What its replicator is called.
fn name_of(database: &Database) -> Cow<'_, str> {
    database.path.to_string_lossy()
}
