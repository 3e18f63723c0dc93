//! The commands: wiring, the poll loop, what is printed. The only floor that reads the clock and sleeps.

mod argv;
mod at_hand;
mod clock;
mod databases;
mod delete;
mod discover;
mod exec;
mod files;
mod fleet;
mod heartbeat;
mod journal;
mod listings;
mod metrics;
mod mirror;
mod notify;
mod output;
mod poll;
mod print;
mod progress;
mod replicate;
mod restore;
mod restore_all;
mod restoring;
mod service;
mod signals;
mod snapshot;
mod status;
mod terminal;
mod users;
#[cfg(test)]
mod vanishing;
mod verify;

use std::io::Write as _;
use std::rc::Rc;

use crate::cli::{self, Command, Invocation, Parsed};
use crate::config::{self, Config, LogFormat, Replica};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::printable::printable;
use crate::store::{self, Pool, Store};
use files::Reported;

/// What a command comes back with: the exit status of the process.
type Status = u8;

/// Runs the program with the words behind its name; the exit status.
pub fn main(words: &[String]) -> u8 {
    argv::hide_logins();
    let result = cli::parse(words).and_then(|parsed| match parsed {
        Parsed::Help(text) => print::text(&text).map(|()| 0),
        Parsed::Run(invocation) => run(&invocation),
    });
    result.unwrap_or_else(|error| {
        say(&error);
        error.kind().exit_status()
    })
}

/// The last words of a run that failed. Where nothing can be written any more, the exit status still tells.
fn say(error: &Error) {
    let mut text = format!("litestream: {}\n", printable(&error.to_string()));
    if let Some(hint) = error.hint() {
        text += &format!("hint: {}\n", printable(hint));
    }
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn run(invocation: &Invocation) -> Result<Status> {
    log::set_stamped(!journal::is_standard_error(&environment));
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
    let given = Given { invocation };
    match &invocation.command {
        Command::Replicate(options) => replicate::run(&given, options),
        Command::Restore(options) => restore::run(&given, options),
        Command::Snapshot(options) => snapshot::run(&given, options),
        Command::Delete(options) => delete::run(&given, options),
        Command::Databases { json } => databases::run(&given, *json),
        Command::Generations(options) => listings::generations(&given, options),
        Command::Snapshots(options) => listings::snapshots(&given, options),
        Command::Wal(options) => listings::wal(&given, options),
        Command::Status(options) => status::run(&given, options),
        Command::Verify(options) => verify::run(&given, options),
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
struct Given<'a> {
    invocation: &'a Invocation,
}

/// A variable of the environment, if it is set to text.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Given<'_> {
    /// The configuration file, read and checked.
    fn config(&self) -> Result<Config> {
        let config = config::load(self.invocation.config.as_deref(), &environment, self.invocation.expand_env)?;
        self.log_as(&config, None);
        for warning in &config.warnings {
            log::warn("configuration").field("detail", warning).emit();
        }
        Ok(config)
    }

    /// From now on the log is what a configuration says, as far as the command line does not. Where neither names a
    /// level it is `default`, or stays.
    fn log_as(&self, config: &Config, default: Option<log::Level>) {
        if let (None, Some(level)) = (self.invocation.log_level, config.logging.level.or(default)) {
            log::set_level(level);
        }
        log::set_json(config.logging.format == LogFormat::Json);
    }

    /// The replica that a command reads: by its URL, or that of a database in the configuration.
    fn replica(&self, source: &cli::Source) -> Result<(Replica, Option<config::Database>)> {
        let (replica, database) = match source {
            cli::Source::Replica(url) => (config::replica_from_url(url.reveal(), &environment)?, None),
            cli::Source::Database(path) => {
                let database = self.config()?.find(path, &environment)?;
                (database.replica.clone(), Some(database))
            }
        };
        config::check::replica(&replica)?;
        Ok((replica, database))
    }

    /// The database and replica that the command line names, or those of the configuration.
    fn pair(&self, pair: &cli::Pair) -> Result<config::Database> {
        let database = config::from_arguments(&pair.database, pair.replica.reveal(), &environment)?;
        config::check::replica(&database.replica)?;
        Ok(database)
    }

    /// The databases that a command is about.
    fn chosen(&self, chosen: &cli::Chosen) -> Result<Vec<config::Database>> {
        match chosen {
            cli::Chosen::Pair(pair) => Ok(vec![self.pair(pair)?]),
            cli::Chosen::Database(path) => {
                let database = self.config()?.find(path, &environment)?;
                config::check::replica(&database.replica)?;
                Ok(vec![database])
            }
            cli::Chosen::All => {
                let config = self.config()?;
                config::check::config(&config)?;
                files::expand(&config)
            }
        }
    }
}

impl Given<'_> {
    /// The databases that a report is about: of a whole configuration, also those that are left in the store alone.
    fn reported(&self, chosen: &cli::Chosen, pool: &mut Pool) -> Result<Vec<Reported>> {
        if let cli::Chosen::All = chosen {
            let config = self.config()?;
            config::check::config(&config)?;
            return files::reported(&config, pool);
        }
        Ok(self.chosen(chosen)?.into_iter().map(Reported::Configured).collect())
    }
}

/// What has failed of several things that were tried in turn: one that fails does not keep the others from being done.
#[derive(Default)]
struct Errors(Option<Error>);

impl Errors {
    /// The one before is said now.
    fn push(&mut self, error: Error) {
        if let Some(before) = self.0.replace(error) {
            say(&before);
        }
    }

    /// The last one, whose status is that of the run.
    fn last(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Opens the store of a replica and waits until it answers.
fn connect(replica: &Replica, pool: &mut Pool) -> Result<Rc<dyn Store>> {
    let store = store::open(&replica.target, pool)?;
    crate::replica::download::connect(&*store, &clock::System).map_err(|e| {
        let missing = e.kind() == Kind::NotFound;
        let error = e.context(&replica.url);
        // A command that only reads has no use for a bucket that it makes.
        if missing { error.with_hint("check the name of the bucket in the replica URL") } else { error }
    })?;
    Ok(store)
}
