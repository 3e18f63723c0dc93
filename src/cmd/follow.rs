//! `litestream restore -f`: copies that are kept up to date, one or many, in one thread, until the end is asked for.
//!
//! What is stored in a bucket is told once for all copies of it. Only what is in directories is polled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::exec::{ChildCommand, signal_number};
use crate::cmd::follow_member::Member;
use crate::cmd::follow_report::Reporter;
use crate::cmd::outputs::{Outputs, clash_error};
use crate::cmd::restore_items::{Item, ReplicaRoot, Wanted};
use crate::cmd::restore_one::request;
use crate::cmd::{ExitStatus, encryption, signals};
use crate::config::Replica;
use crate::error::{Kind, Result};
use crate::format::prefixes::split_name;
use crate::log;
use crate::restore::standby::news::News;
use crate::source::comparison::PIECE_INTERVAL;
use crate::store::{self, ConnectionPool, Entry, Store, StoreTarget, WatchEvent};

/// A signal is noticed within this time.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// New databases in directories, and in buckets whose server does not tell of them, are looked for so often.
const SURVEY_INTERVAL: Duration = Duration::from_secs(10);
/// Where the server tells of them.
const TOLD_SURVEY_INTERVAL: Duration = Duration::from_secs(300);

/// A bucket, and which copy is of which prefix in it.
struct Bucket {
    url: String,
    news: News,
    members: BTreeMap<String, usize>,
}

/// Below it are databases that come by themselves.
struct Watched {
    root: ReplicaRoot,
    /// The bucket that it is in.
    bucket: Option<usize>,
    next: Instant,
}

/// All copies of a process.
pub struct Following<'a> {
    options: &'a cli::RestoreOptions,
    interval: Duration,
    pool: ConnectionPool,
    buckets: Vec<Bucket>,
    members: Vec<(Option<usize>, Member)>,
    roots: Vec<Watched>,
    /// The outputs that have a member, each with the url of its replica.
    outputs: Outputs<String>,
    /// The urls of those that have none, as there is no room for it.
    refused: BTreeSet<String>,
    reporter: Reporter,
    /// Before it, no copy is compared with what was applied to it.
    next_comparison: Instant,
    /// The words of the command, until it runs.
    exec: Option<Vec<String>>,
    child: Option<ChildCommand>,
}

impl<'a> Following<'a> {
    pub fn new(
        options: &'a cli::RestoreOptions,
        interval: Duration,
        pool: ConnectionPool,
        reporter: Reporter,
    ) -> Following<'a> {
        Following {
            options,
            interval,
            pool,
            buckets: Vec::new(),
            members: Vec::new(),
            roots: Vec::new(),
            outputs: Outputs::default(),
            refused: BTreeSet::new(),
            reporter,
            next_comparison: SystemClock.now(),
            exec: options.exec.clone(),
            child: None,
        }
    }

    /// Follows one database until the end is asked for.
    ///
    /// Errors: those of the first restore.
    pub fn run_one(mut self, item: &Item, store: &Rc<dyn Store>) -> Result<ExitStatus> {
        self.buckets.push(Bucket { url: String::new(), news: News::new(store.clone()), members: BTreeMap::new() });
        self.add(item, Some((0, String::new())), store.clone())?;
        let (quiet, json) = (self.options.quiet, self.options.json);
        for (_, member) in &mut self.members {
            let name = member.name().clone();
            member.open(&mut |shown, took| Reporter::published(&name, shown, took, quiet, json))?;
        }
        self.run(true)
    }

    /// Follows many until the end is asked for. One that fails keeps no other from going on.
    ///
    /// Errors: of a root that will never answer, such as a bucket that is not there.
    pub fn run_many(mut self, wanted: Wanted) -> Result<ExitStatus> {
        for item in wanted.items {
            self.add_item(&item)?;
        }
        let now = SystemClock.now();
        for root in wanted.roots {
            let bucket = self.bucket_of(&root.replica)?.map(|(bucket, _)| bucket);
            self.roots.push(Watched { root, bucket, next: now });
        }
        for at in 0..self.roots.len() {
            match self.survey(at) {
                Err(error) if error.kind() != Kind::StoreUnreachable => return Err(error),
                Err(error) => log::warn("cannot look for new databases, retrying").error(&error).emit(),
                Ok(()) => {}
            }
        }
        self.run(false)
    }

    fn run(&mut self, single: bool) -> Result<ExitStatus> {
        self.reporter.begin();
        let status = loop {
            if let Some(status) = self.exit_status()? {
                break status;
            }
            let busy = self.take_events() | self.step(single)?;
            self.compare();
            self.find_new_databases();
            self.start_command()?;
            self.reporter.poll(self.members.iter().map(|(_, member)| member), || self.pool.traffic());
            if !busy {
                self.wait();
            }
        };
        self.reporter.end();
        let finished = self.members.iter_mut().map(|(_, member)| member.finish());
        finished.fold(Ok(()), Result::and).map(|()| status)
    }

    /// Hands out what the buckets tell; true if there was something.
    fn take_events(&mut self) -> bool {
        let (now, mut any) = (SystemClock.now(), false);
        for at in 0..self.buckets.len() {
            while let Some(bucket) = self.buckets.get_mut(at) {
                match bucket.news.poll(now) {
                    WatchEvent::Stored(entry) => self.stored(at, entry, now),
                    WatchEvent::Started => {
                        let here = self.members.iter_mut().filter(|(bucket, _)| *bucket == Some(at));
                        here.for_each(|(_, member)| member.request_listing());
                        self.roots.iter_mut().filter(|root| root.bucket == Some(at)).for_each(|root| root.next = now);
                    }
                    WatchEvent::Pending | WatchEvent::Down => break,
                }
                any = true;
            }
        }
        any
    }

    fn stored(&mut self, at: usize, entry: Entry, now: Instant) {
        let (Some((prefix, own)), Some(bucket)) = (split_name(&entry.name), self.buckets.get_mut(at)) else { return };
        match bucket.members.get(prefix).and_then(|member| self.members.get_mut(*member)) {
            Some((_, member)) => {
                member.on_object(Entry { name: own.to_string(), ..entry });
                // Without a copy nobody waits for what its writer stores.
                if member.has_copy() {
                    bucket.news.tell_writer(prefix, now);
                }
            }
            None => self.add_new(at, prefix),
        }
    }

    /// A database that nobody knew of.
    fn add_new(&mut self, at: usize, prefix: &str) {
        let found = self.roots.iter().filter(|root| root.bucket == Some(at)).find_map(|watched| {
            let StoreTarget::Nats(options) = &watched.root.replica.target else { return None };
            let below = match options.prefix.as_str() {
                "" => Some(prefix),
                own if own == prefix => Some(""),
                own => prefix.strip_prefix(own)?.strip_prefix('/'),
            };
            watched.root.item(below?).transpose()
        });
        let added = found.map_or(Ok(()), |item| item.and_then(|item| self.add_item(&item)));
        if let Err(error) = added {
            log::warn("new database not followed").field("db", prefix).error(&error).emit();
        }
    }

    /// Looks at what is stored below the roots whose turn it is.
    fn find_new_databases(&mut self) {
        for at in 0..self.roots.len() {
            if self.roots.get(at).is_some_and(|root| root.next <= SystemClock.now())
                && let Err(error) = self.survey(at)
            {
                log::warn("cannot look for new databases, retrying").error(&error).emit();
            }
        }
    }

    fn survey(&mut self, at: usize) -> Result<()> {
        let Some(watched) = self.roots.get_mut(at) else { return Ok(()) };
        let told =
            watched.bucket.and_then(|bucket| self.buckets.get(bucket)).is_some_and(|bucket| bucket.news.is_told());
        watched.next = SystemClock.now() + if told { TOLD_SURVEY_INTERVAL } else { SURVEY_INTERVAL.max(self.interval) };
        let items = watched.root.stored(&mut self.pool)?;
        items.iter().try_for_each(|item| self.add_item(item))
    }

    /// The bucket of a replica and its prefix there; none for a directory.
    fn bucket_of(&mut self, replica: &Replica) -> Result<Option<(usize, String)>> {
        let StoreTarget::Nats(options) = &replica.target else { return Ok(None) };
        let root = replica.root();
        let known = self.buckets.iter().position(|bucket| bucket.url == root.url);
        let at = match known {
            Some(at) => at,
            None => {
                let store = store::open(&root.target, encryption(&root, None)?, &mut self.pool)?;
                self.buckets.push(Bucket { url: root.url, news: News::new(store), members: BTreeMap::new() });
                self.buckets.len() - 1
            }
        };
        Ok(Some((at, options.prefix.clone())))
    }

    fn add_item(&mut self, item: &Item) -> Result<()> {
        let Some(output) = &item.output else { return Ok(()) };
        if self.has_no_room(item, output) || (self.options.if_db_not_exists && output.exists()) {
            return Ok(());
        }
        if self.options.output.is_some() {
            item.create_parent()?;
        }
        let bucket = self.bucket_of(&item.replica)?;
        let store = store::open(&item.replica.target, encryption(&item.replica, None)?, &mut self.pool)?;
        self.add(item, bucket, store)
    }

    /// Whether it is followed already, or would take the place of another one, which is logged once.
    fn has_no_room(&mut self, item: &Item, output: &Path) -> bool {
        let url = &item.replica.url;
        let Some((there, other)) = self.outputs.clash(output) else { return false };
        if (there, other) != (output, url) && self.refused.insert(url.clone()) {
            let error = clash_error(url, output, (other, there));
            log::warn("new database not followed").field("db", url).error(&error).emit();
        }
        true
    }

    fn add(&mut self, item: &Item, bucket: Option<(usize, String)>, store: Rc<dyn Store>) -> Result<()> {
        let Some(output) = item.output.clone() else { return Ok(()) };
        let wanted = request(self.options, item.database.as_deref())?;
        let member = self.members.len();
        self.outputs.insert(&output, item.replica.url.clone());
        let at = bucket.as_ref().map(|(at, _)| *at);
        if let Some((at, prefix)) = bucket
            && let Some(bucket) = self.buckets.get_mut(at)
        {
            bucket.members.insert(prefix, member);
        }
        let member = Member::new(store, item.clone(), wanted, output, self.interval);
        self.members.push((at, member));
        Ok(())
    }

    /// Lets each member do what is due; true if there was something.
    ///
    /// Errors: of a single one that has no copy yet.
    fn step(&mut self, single: bool) -> Result<bool> {
        let mut busy = false;
        if signals::shutdown_signal().is_some() {
            return Ok(false);
        }
        let (quiet, json) = (self.options.quiet, self.options.json);
        for (bucket, member) in &mut self.members {
            let told = bucket.and_then(|at| self.buckets.get(at)).is_some_and(|bucket| bucket.news.is_told());
            let (name, files) = (member.name().clone(), member.counters().files);
            let mut published = |shown: &_, took: Duration| Reporter::published(&name, shown, took, quiet, json);
            match member.step(told, &mut published) {
                Ok(worked) => busy |= worked,
                Err(error) if single => return Err(error),
                // The end was asked for in the middle of it.
                Err(_) if signals::shutdown_signal().is_some() => break,
                Err(error) => member.report(&error),
            }
            if member.counters().files > files {
                signal_child(self.child.as_ref(), self.options);
            }
        }
        Ok(busy)
    }

    /// Compares a piece of the copy that has waited longest for it: one copy at a time, each second.
    fn compare(&mut self) {
        let now = SystemClock.now();
        if now < self.next_comparison || signals::shutdown_signal().is_some() {
            return;
        }
        self.next_comparison = now + PIECE_INTERVAL;
        let due = self.members.iter_mut().filter_map(|(_, member)| Some((member.comparison_due(now)?, member)));
        let Some((_, member)) = due.min_by_key(|(due, _)| *due) else { return };
        let (name, files) = (member.name().clone(), member.counters().files);
        let (quiet, json) = (self.options.quiet, self.options.json);
        member.compare(&mut |shown, took| Reporter::published(&name, shown, took, quiet, json));
        if member.counters().files > files {
            signal_child(self.child.as_ref(), self.options);
        }
    }

    /// The command begins once each database was looked at: what it reads is there then, where it can be.
    fn start_command(&mut self) -> Result<()> {
        if let Some(words) = self.exec.take() {
            self.child = Some(ChildCommand::start(&words)?);
        }
        Ok(())
    }

    /// The status to end with, if it is time.
    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.poll(),
            None => Ok(signals::shutdown_signal().map(|_| 0)),
        }
    }

    fn wait(&self) {
        let pause = SIGNAL_CHECK_INTERVAL.min(self.interval);
        match self.buckets.first() {
            Some(bucket) => bucket.news.store().wait(pause),
            None => SystemClock.sleep(pause),
        }
    }
}

/// The command is told that a copy is another file.
fn signal_child(child: Option<&ChildCommand>, options: &cli::RestoreOptions) {
    if let (Some(child), Some(signal)) = (child, options.exec_signal) {
        child.signal(signal_number(signal));
    }
}
