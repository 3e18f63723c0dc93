//! The commands: wiring, the poll loop, what is printed. The only layer that reads the clock and sleeps.

mod clock;
mod compact;
mod copy_status;
mod databases;
mod delete;
mod drain;
mod event_loop;
mod exec;
mod find_databases;
mod find_replicas;
mod follow;
mod follow_member;
mod follow_metrics;
mod follow_report;
mod heap;
mod heartbeat;
mod journal;
mod link_watch;
mod list;
mod live_status;
mod metrics;
mod newest_replica;
mod notify;
mod outputs;
mod print;
mod process_title;
mod progress;
mod replicate;
mod restore;
mod restore_all;
mod restore_items;
mod restore_missing;
mod restore_one;
mod service;
mod signals;
mod snapshot;
mod status;
mod status_log;
mod stored_objects;
mod supervisor;
mod terminal;
mod traffic_log;
mod verify;
mod walk_files;
mod watched_directories;
mod wiring;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

use crate::age::identity::Identity;
use crate::cli::{self, Command, Invocation, Parsed};
use crate::config::{self, Config, LogFormat, Replica};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::printable::printable;
use crate::store::encrypted::Encryption;
use crate::store::{self, ConnectionPool, Store};
use find_databases::{Found, Reported};

/// What a command comes back with: the exit status of the process.
type ExitStatus = u8;

/// Something is committed that is not stored yet, or stored that a copy does not have; or nothing keeps it up to date.
const EXIT_BEHIND: ExitStatus = 1;

/// Runs the program with the arguments after its name; the exit status.
pub fn main(words: &[String]) -> u8 {
    process_title::scrub_credentials();
    signals::ignore_file_size_signal();
    let result = cli::parse(words).and_then(|parsed| match parsed {
        Parsed::Help(text) => print::text(&text).map(|()| 0),
        Parsed::Run(invocation) => run(&invocation),
    });
    result.unwrap_or_else(|error| {
        print_error(&error);
        error.kind().exit_status()
    })
}

/// The last words of a run that failed. Where nothing can be written any more, the exit status still tells.
fn print_error(error: &Error) {
    let mut text = format!("litestream: {}\n", printable(&error.to_string()));
    if let Some(hint) = error.hint() {
        text += &format!("hint: {}\n", printable(hint));
    }
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// A run that failed because a signal asked for its end comes back with 128 and the signal, as a shell has it.
fn with_signal_status(done: Result<ExitStatus>) -> Result<ExitStatus> {
    match (done, signals::shutdown_signal()) {
        (Err(error), Some(signal)) => {
            print_error(&error);
            Ok(128 + u8::try_from(signal).unwrap_or(0))
        }
        (done, _) => done,
    }
}

fn run(invocation: &Invocation) -> Result<ExitStatus> {
    log::set_timestamps(!journal::stderr_is_journal(&environment));
    let level = invocation.log_level.map(Ok).or_else(|| config::log_level(&environment).transpose()).transpose()?;
    if let Some(level) = level {
        log::set_level(level);
    }
    if quiet(&invocation.command) {
        progress::silence();
        if level.is_none() {
            log::set_level(log::Level::Warn);
        }
    }
    if let Some(context) = &invocation.context {
        CONTEXT.get_or_init(|| context.clone());
    }
    if let Some(file) = &invocation.identity {
        let identities = config::age_keys::identity_file(file, "option -identity")?;
        IDENTITIES.get_or_init(|| identities);
    }
    let ctx = Context { invocation };
    match &invocation.command {
        Command::Replicate(options) => replicate::run(&ctx, options),
        Command::Restore(options) => restore::run(&ctx, options),
        Command::Snapshot(options) => snapshot::run(&ctx, options),
        Command::Delete(options) => delete::run(&ctx, options),
        Command::List(options) => list::run(&ctx, options),
        Command::Compact(options) => compact::run(&ctx, options),
        Command::Databases { json } => databases::run(&ctx, *json),
        Command::Generations(options) => stored_objects::generations(&ctx, options),
        Command::Snapshots(options) => stored_objects::snapshots(&ctx, options),
        Command::Wal(options) => stored_objects::wal(&ctx, options),
        Command::Status(cli::StatusOptions { target: cli::StatusTarget::Live(url), json }) => {
            live_status::run(url, *json)
        }
        Command::Status(cli::StatusOptions { target: cli::StatusTarget::Compared(chosen), json }) => {
            status::run(&ctx, chosen, *json)
        }
        Command::Verify(options) => verify::run(&ctx, options),
        Command::Version { json } => print::version(*json),
    }
}

fn quiet(command: &Command) -> bool {
    match command {
        Command::Restore(options) => options.quiet,
        Command::Snapshot(options) => options.quiet,
        Command::Verify(options) => options.quiet,
        _ => false,
    }
}

/// What every command may ask for: the configuration and the environment.
struct Context<'a> {
    invocation: &'a Invocation,
}

/// The context of the nats CLI that the command line names.
static CONTEXT: OnceLock<String> = OnceLock::new();

/// The identities in the file that the command line names.
static IDENTITIES: OnceLock<Vec<Identity>> = OnceLock::new();

/// What objects of a replica are encrypted to and read with. `notes` is the directory with the key of the writer's notes.
///
/// Errors: of kind `Usage`, naming the file of keys that cannot be used.
fn encryption(replica: &Replica, notes: Option<PathBuf>) -> Result<Encryption> {
    let mut encryption = replica.age.load(notes)?;
    encryption.identities.extend(IDENTITIES.get().into_iter().flatten().cloned());
    Ok(encryption)
}

/// A variable of the environment, if it is set to text. The command line's context stands over the variable.
fn environment(name: &str) -> Option<String> {
    let context = CONTEXT.get().filter(|_| name == config::CONTEXT_VARIABLE);
    context.cloned().or_else(|| std::env::var(name).ok())
}

impl Context<'_> {
    /// The configuration file, read and checked.
    fn config(&self) -> Result<Config> {
        let config = config::load(self.invocation.config.as_deref(), &environment, self.invocation.expand_env)?;
        self.apply_log_settings(&config, None);
        for warning in &config.warnings {
            log::warn("configuration warning").field("detail", warning).emit();
        }
        Ok(config)
    }

    /// From now on the log is what a configuration says, as far as the command line does not. Where neither names a
    /// level it is `default`, or stays.
    fn apply_log_settings(&self, config: &Config, default: Option<log::Level>) {
        if let (None, Some(level)) = (self.invocation.log_level, config.logging.level.or(default)) {
            log::set_level(level);
        }
        log::set_json(config.logging.format == LogFormat::Json);
    }

    /// The replica that a command reads: by its URL, or that of a database in the configuration.
    fn replica(&self, source: &cli::ReplicaRef) -> Result<(Replica, Option<config::Database>)> {
        let (replica, database) = match source {
            cli::ReplicaRef::Replica(url) => (config::replica_from_url(url.reveal(), &environment)?, None),
            cli::ReplicaRef::Database(path) => {
                let database = self.config()?.find(path, &environment)?;
                let database = self.about_one(&database)?;
                (database.replica.clone(), Some(database))
            }
        };
        config::check_files::replica(&replica)?;
        Ok((replica, database))
    }

    /// The database about the replica that the option -replica names, or its only one.
    fn about_one(&self, database: &config::Database) -> Result<config::Database> {
        match &self.invocation.replica {
            Some(wanted) => database.about(wanted),
            None if database.has_several_replicas() => {
                let what = format!("database {}: it has several replicas", database.path.display());
                Err(Error::new(Kind::Usage, what)
                    .with_hint(format!("choose one with -replica: {}", database.replica_labels())))
            }
            None => Ok(database.clone()),
        }
    }

    /// The replica to restore a database from, if no URL names it: the one that the option -replica names, or the newest.
    fn newest_replica(&self, database: &config::Database, pool: &mut ConnectionPool) -> Result<Replica> {
        match &self.invocation.replica {
            Some(wanted) => Ok(database.about(wanted)?.replica),
            None => newest_replica::newest_replica(database, pool),
        }
    }

    /// Each database about each of its replicas, or about the one that the option -replica names.
    fn about_replicas(&self, databases: Vec<config::Database>) -> Result<Vec<config::Database>> {
        match &self.invocation.replica {
            Some(wanted) => databases.iter().map(|database| database.about(wanted)).collect(),
            None => Ok(databases.iter().flat_map(config::Database::each_replica).collect()),
        }
    }

    /// The database and replica that the command line names, or those of the configuration.
    fn explicit_database(&self, pair: &cli::DatabaseAndReplica) -> Result<config::Database> {
        let database = config::from_arguments(&pair.database, pair.replica.reveal(), &environment)?;
        config::check_files::replica(&database.replica)?;
        Ok(database)
    }

    /// The databases that a command is about.
    fn selected_databases(&self, chosen: &cli::DatabaseSelection) -> Result<Found> {
        match chosen {
            cli::DatabaseSelection::Explicit(pair) => Ok(Found::of(vec![self.explicit_database(pair)?])),
            cli::DatabaseSelection::Path(path) => {
                let databases = self.about_replicas(vec![self.config()?.find(path, &environment)?])?;
                databases.iter().try_for_each(|database| config::check_files::replica(&database.replica))?;
                Ok(Found::of(databases))
            }
            cli::DatabaseSelection::Configured => {
                let config = self.config()?;
                config::check_files::config(&config)?;
                let found = find_databases::find_databases(&config)?;
                Ok(Found { databases: self.about_replicas(found.databases)?, ..found })
            }
        }
    }
}

impl Context<'_> {
    /// The databases that a report is about: of a whole configuration, also those that are left in the store alone.
    fn reported(&self, chosen: &cli::DatabaseSelection, pool: &mut ConnectionPool) -> Result<Vec<Reported>> {
        let found = self.selected_databases(chosen)?;
        let others = self.others(chosen, &found, false, pool)?;
        Ok(found.databases.into_iter().map(Reported::Configured).chain(others).collect())
    }

    /// What a report has beside the databases; nothing where only some were chosen. Of what is stored alone, each URL is told.
    fn others(
        &self,
        chosen: &cli::DatabaseSelection,
        found: &Found,
        create_bucket: bool,
        pool: &mut ConnectionPool,
    ) -> Result<Vec<Reported>> {
        match chosen {
            cli::DatabaseSelection::Configured => Ok(found.others(&self.config()?, create_bucket, pool)),
            _ => Ok(Vec::new()),
        }
    }
}

/// What has failed of several things that were tried in turn: one that fails does not keep the others from being done.
#[derive(Default)]
struct ErrorCollector(Option<Error>);

impl ErrorCollector {
    /// The one before is said now.
    fn push(&mut self, error: Error) {
        if let Some(before) = self.0.replace(error) {
            print_error(&before);
        }
    }

    /// The last one, whose status is that of the run.
    fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// The same error, with the database that it is about.
fn of_database(error: Error, path: &Path) -> Error {
    let name = path.display().to_string();
    if error.message().contains(&name) { error } else { error.context(format!("database {name}")) }
}

/// Opens the store of a replica and waits until it answers.
fn connect(replica: &Replica, pool: &mut ConnectionPool) -> Result<Rc<dyn Store>> {
    let store = store::open(&replica.target, encryption(replica, None)?, pool)?;
    store::blocking::connect(&*store, &clock::SystemClock).map_err(|e| {
        let missing = e.kind() == Kind::NotFound;
        let error = e.context(&replica.url);
        // A command that only reads has no use for a bucket that it makes.
        if missing { error.with_hint("check the name of the bucket in the replica URL") } else { error }
    })?;
    Ok(store)
}
