//! The command line: words in, a checked [`Invocation`] out. The only user of `argh`; nothing outside is touched.

mod args;
mod foreign_words;
mod help;
mod normalize;
mod positional;
mod validate;

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::error::{Error, Kind, Result};
use crate::format::keep::Keep;
use crate::format::moment::Moment;
use crate::format::position::{Generation, Position};
use crate::log::Level;
use crate::secret::Secret;
use crate::source::IntegrityCheck;

/// What the user wants.
#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // There is one of it in a run.
pub enum Parsed {
    Run(Invocation),
    /// To be printed to standard output, with exit status 0.
    Help(String),
}

/// One run of the program.
#[derive(Debug, PartialEq)]
pub struct Invocation {
    pub config: Option<PathBuf>,
    pub log_level: Option<Level>,
    /// Whether `$VAR` in the configuration is expanded.
    pub expand_env: bool,
    /// The context of the nats CLI, over that of the environment.
    pub context: Option<String>,
    /// Of a database with several replicas, the one that the command is about: its name or URL.
    pub replica: Option<String>,
    /// A file of age identities, beside those of the configuration.
    pub identity: Option<PathBuf>,
    pub command: Command,
}

#[derive(Debug, PartialEq)]
pub enum Command {
    Replicate(ReplicateOptions),
    Restore(RestoreOptions),
    Snapshot(SnapshotOptions),
    Delete(DeleteOptions),
    List(ListOptions),
    Compact(CompactOptions),
    Databases { json: bool },
    Generations(HistoryOptions),
    Snapshots(HistoryOptions),
    Wal(HistoryOptions),
    Status(StatusOptions),
    Verify(VerifyOptions),
    Version { json: bool },
}

/// What a command is about: a database in the configuration, or a replica by its URL (which may hold a password).
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaRef {
    Database(String),
    Replica(Secret),
}

/// A database and its replica, given without a configuration file.
#[derive(Debug, PartialEq)]
pub struct DatabaseAndReplica {
    pub database: String,
    pub replica: Secret,
}

#[derive(Debug, PartialEq)]
pub struct ReplicateOptions {
    /// None: those in the configuration.
    pub pair: Option<DatabaseAndReplica>,
    /// The words of a command.
    pub exec: Option<Vec<String>>,
    pub once: bool,
    pub force_snapshot: bool,
    pub enforce_retention: bool,
    pub restore_if_missing: bool,
    pub create_bucket: bool,
    /// What is stored below the prefix may be of another database.
    pub allow_other_database: bool,
    /// Store in clear, also after what is encrypted.
    pub allow_unencrypted: bool,
    /// Tell a replicator of the same prefix to stop.
    pub takeover: bool,
}

/// What a command may be sent when a copy is another file than before.
pub const EXEC_SIGNALS: [&str; 4] = ["HUP", "USR1", "USR2", "TERM"];

/// Which databases to restore.
#[derive(Clone, Debug, PartialEq)]
pub enum RestoreSource {
    One(ReplicaRef),
    /// Every database of the configuration.
    Configured,
    /// Every database below this URL, as the names of its objects tell it.
    Below(Secret),
}

#[derive(Clone, Debug, PartialEq)]
pub struct RestoreOptions {
    pub source: RestoreSource,
    /// None: where the database was. A directory where several databases are restored.
    pub output: Option<PathBuf>,
    pub target: RestoreTarget,
    /// A moment after all that is stored is an error.
    pub strict: bool,
    /// Only this generation.
    pub generation: Option<Generation>,
    pub if_db_not_exists: bool,
    pub if_replica_exists: bool,
    pub force: bool,
    /// Replace an existing file also under those who have it open.
    pub force_open: bool,
    /// What is stored below the prefix may be of another database.
    pub allow_other_database: bool,
    pub dry_run: bool,
    /// How SQLite checks what was restored, if at all.
    pub integrity_check: Option<IntegrityCheck>,
    /// Keep the output up to date, looking this often.
    pub follow: Option<Duration>,
    /// The words of a command that runs while the output is kept up to date.
    pub exec: Option<Vec<String>>,
    /// What the command is sent when a copy is another file than before: one of [`EXEC_SIGNALS`].
    pub exec_signal: Option<&'static str>,
    /// Make the copy that was followed with a database to write to.
    pub promote: bool,
    /// Print nothing but warnings and errors.
    pub quiet: bool,
    pub json: bool,
}

/// Up to which commit to restore.
#[derive(Clone, Debug, PartialEq)]
pub enum RestoreTarget {
    Latest,
    /// The last commit not later than this.
    Time(Moment),
    /// Exactly this commit.
    Position(Position),
}

/// Which databases, and from where: all, one of the configuration, or one with its replica.
#[derive(Debug, PartialEq)]
pub enum DatabaseSelection {
    Configured,
    Path(String),
    Explicit(DatabaseAndReplica),
}

#[derive(Debug, PartialEq)]
pub struct SnapshotOptions {
    pub selection: DatabaseSelection,
    /// The whole database, not only what changed.
    pub full: bool,
    pub create_bucket: bool,
    /// What is stored below the prefix may be of another database.
    pub allow_other_database: bool,
    /// Store in clear, also after what is encrypted.
    pub allow_unencrypted: bool,
    pub enforce_retention: bool,
    /// How long a backup stays, over what the configuration says.
    pub retention: Option<Duration>,
    /// Print nothing but warnings and errors.
    pub quiet: bool,
    pub json: bool,
}

#[derive(Debug, PartialEq)]
pub struct DeleteOptions {
    pub source: ReplicaRef,
    pub dry_run: bool,
    /// Do not ask.
    pub confirmed: bool,
    pub json: bool,
}

#[derive(Debug, PartialEq)]
pub struct ListOptions {
    /// Where the databases are: a URL, or a directory.
    pub url: Secret,
    /// A database whose newest state is older is a problem.
    pub max_age: Option<Duration>,
    /// The file with the prefixes that must be there.
    pub expected: Option<PathBuf>,
    pub json: bool,
}

#[derive(Debug, PartialEq)]
pub struct CompactOptions {
    /// Every database at and below this URL; none: those of the configuration.
    pub url: Option<Secret>,
    /// Between two passes; none: one pass.
    pub interval: Option<Duration>,
    /// How long any moment stays restorable; none: for ever. Only with a URL.
    pub retention: Option<Duration>,
    /// Which states of a longer history stay. Only with a URL.
    pub keep: Option<Keep>,
    pub metrics_file: Option<PathBuf>,
    pub dry_run: bool,
    pub json: bool,
}

#[derive(Debug, PartialEq)]
pub struct HistoryOptions {
    pub source: ReplicaRef,
    /// `wal` only: none but this.
    pub generation: Option<Generation>,
    pub json: bool,
}

#[derive(Debug, PartialEq)]
pub struct StatusOptions {
    pub target: StatusTarget,
    pub json: bool,
}

/// Of what the status is asked.
#[derive(Debug, PartialEq)]
pub enum StatusTarget {
    /// Live databases, compared with what is stored of them.
    Compared(DatabaseSelection),
    /// The process that replicates there.
    Live(Secret),
}

#[derive(Debug, PartialEq)]
pub struct VerifyOptions {
    pub target: VerifyTarget,
    /// Compare the live database with its stored checksum, and download nothing.
    pub live: bool,
    /// Print nothing but warnings and errors.
    pub quiet: bool,
    pub json: bool,
}

/// What is proven: backups with their live databases, or one backup by its URL alone.
#[derive(Debug, PartialEq)]
pub enum VerifyTarget {
    /// All in the configuration.
    All,
    Database(String),
    Replica(Secret),
    Pair(DatabaseAndReplica),
}

/// How often `restore -f` looks for news, if nothing else is said. Litestream's default.
pub const DEFAULT_FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the words after the program's name.
///
/// Errors: [`Kind::Usage`], with the nearest right word as hint. No error shows a URL's secrets.
pub fn parse(argv: &[String]) -> Result<Parsed> {
    let info = args::Arguments::get_args_info();
    let sorted = normalize::normalize(argv, &info)?;
    if sorted.help {
        return Ok(Parsed::Help(help::text(&info, sorted.command.as_deref())));
    }
    if sorted.command.is_none() {
        return Err(Error::new(Kind::Usage, "no command is given").with_hint("litestream -h lists the commands"));
    }
    let words = sorted.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let arguments = args::Arguments::from_args(&["litestream"], &words).map_err(unexpected_argh_error)?;
    validate::into_invocation(arguments).map(Parsed::Run)
}

/// Every command with its options, without dashes, and the global options under the name "": for the manual's test.
pub fn option_names() -> Vec<(String, Vec<String>)> {
    let info = args::Arguments::get_args_info();
    let names = |flags: &[argh::FlagInfo<'_>]| -> Vec<String> {
        flags.iter().map(|flag| normalize::is_bare_word(flag.long).to_string()).filter(|name| name != "help").collect()
    };
    let commands = info.commands.iter().map(|c| (c.name.to_string(), names(c.command.flags)));
    std::iter::once((String::new(), names(info.flags))).chain(commands).collect()
}

/// The pre-pass leaves nothing for `argh` to refuse; its own text could repeat a password, so it is not shown.
fn unexpected_argh_error(_: argh::EarlyExit) -> Error {
    Error::new(Kind::Usage, "the command line is not understood").with_hint("litestream -h lists the commands")
}

#[cfg(test)]
mod tests;
