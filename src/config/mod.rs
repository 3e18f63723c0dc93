//! The configuration: YAML, URLs and environment in, checked values out. The only user of `serde_yaml`.
//!
//! Nothing outside is read here but the file that [`load`] is given, and the one that `NATS_NKEY` names: the environment
//! is an argument, and whether certificates and keys are usable is asked in [`check_files`], before anything is contacted.

pub mod age_keys;
pub mod check_files;
mod credentials;
mod database;
mod database_dir;
mod dbs_entry;
mod document;
mod environment;
mod glob;
pub mod keep;
pub mod keys;
mod nats_context;
mod overlaps;
mod replica_settings;
mod resolve_replica;
pub mod shell_words;
mod snapshot_policy;
mod source_location;
pub mod start_only;
mod subjects;
pub mod suggest;
pub mod units;
mod url;
mod variables;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use database::{
    DEFAULT_BUSY_TIMEOUT, DEFAULT_CHECKPOINT_INTERVAL, DEFAULT_COMPARE_INTERVAL, DEFAULT_MIN_CHECKPOINT_PAGES,
    DEFAULT_MONITOR_INTERVAL, DEFAULT_SPOOL_LIMIT, DEFAULT_TRUNCATE_PAGES, Database,
};
pub use database_dir::DatabaseDir;
pub use environment::Environment;
pub use nats_context::CONTEXT_VARIABLE;
pub use overlaps::{DistinctDatabases, reject_overlaps};
pub use replica_settings::DEFAULT_SYNC_INTERVAL;
pub use snapshot_policy::{DEFAULT_SNAPSHOT_INTERVAL, DEFAULT_SNAPSHOT_RETENTION, SnapshotPolicy};
pub use url::mask_credentials;
pub use variables::LookupVar;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::compression_level::CompressionLevel;
use crate::log::Level;
use crate::secret::Secret;
use crate::store::StoreTarget;
use age_keys::AgeKeys;
use dbs_entry::{DbsEntry, Defaults};
use document::{Document, Section};
use replica_settings::ReplicaSettings;

/// Where the configuration is if nothing else is said, as for Litestream.
pub const DEFAULT_PATH: &str = "/etc/litestream.yml";
/// How long the last sync may take. Litestream's default.
pub const DEFAULT_SHUTDOWN_SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the heartbeat is sent. Litestream's default.
pub const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(300);
/// Litestream's least heartbeat interval: services that listen for one count in minutes.
pub const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);

/// A checked configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub dbs: Vec<Database>,
    /// Directories of databases, to be expanded when the program runs; [`DistinctDatabases`] is then due again.
    pub dirs: Vec<DatabaseDir>,
    pub logging: Logging,
    pub snapshot: SnapshotPolicy,
    pub metrics_file: Option<PathBuf>,
    pub heartbeat: Option<Heartbeat>,
    pub shutdown_sync_timeout: Duration,
    /// Answer to those who look for services of NATS.
    pub service: bool,
    /// The words of a command to run beside the backup.
    pub exec: Option<Vec<String>>,
    /// To be logged: keys of Litestream that do nothing here.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Logging {
    /// None: the default of the log.
    pub level: Option<Level>,
    pub format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// A request to a service that raises an alarm when none comes.
#[derive(Clone, PartialEq, Debug)]
pub struct Heartbeat {
    /// Anyone who knows it can silence the alarm, so it is not shown.
    pub url: Secret,
    pub interval: Duration,
}

/// Where a database is stored.
#[derive(Clone, PartialEq, Debug)]
pub struct Replica {
    /// What the operator calls it.
    pub name: Option<String>,
    pub target: StoreTarget,
    /// What it is called in logs and listings: no secret is in it.
    pub url: String,
    pub sync_interval: Duration,
    /// No sync interval was set: while a standby listens, each commit is stored at once.
    pub serves_standbys: bool,
    /// Merge small segments and delete what is too old, beside replication.
    pub compaction: bool,
    pub compression_level: CompressionLevel,
    /// What is stored there is encrypted to these, and read with these.
    pub age: AgeKeys,
}

impl Replica {
    /// What log lines and the option -replica call it.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.url)
    }

    /// Lets a missing bucket be made, as the option of the command line asks; a directory is always made.
    pub fn create_bucket(&mut self) {
        if let StoreTarget::Nats(options) = &mut self.target {
            options.create_bucket = true;
        }
    }
}

/// Reads the configuration file: `path`, or `LITESTREAM_CONFIG`, or [`DEFAULT_PATH`].
///
/// `expand` tells whether variables are put into values. Errors: [`Kind::Usage`], with file and line.
pub fn load(path: Option<&Path>, env: LookupVar<'_>, expand: bool) -> Result<Config> {
    let path = path.map(Path::to_path_buf).unwrap_or_else(|| default_path(env));
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Error::io(Kind::Usage, format!("read configuration {}", path.display()), &error)
            .with_hint("name another with -config PATH, or give DB_PATH REPLICA_URL")
    })?;
    let environment = check_files::real_environment(env)?;
    let mut config = parse(&text, &environment, expand).with_context(|| format!("configuration {}", path.display()))?;
    config.warnings.extend(check_files::configuration(&path, &text)?);
    Ok(config)
}

/// Where the configuration is if no option says it.
pub fn default_path(env: LookupVar<'_>) -> PathBuf {
    let named = env("LITESTREAM_CONFIG").filter(|path| !path.is_empty());
    PathBuf::from(named.unwrap_or_else(|| DEFAULT_PATH.to_string()))
}

/// A database and its replica as the command line gives them, with defaults for the rest.
pub fn from_arguments(database: &str, url: &str, env: LookupVar<'_>) -> Result<Database> {
    let environment = check_files::real_environment(env)?;
    let path =
        environment.database_path(database).with_context(|| format!("database {:?}", mask_credentials(database)))?;
    Ok(Database::new(path, replica(url, &environment)?))
}

/// A replica as the command line gives it.
pub fn replica_from_url(url: &str, env: LookupVar<'_>) -> Result<Replica> {
    replica(url, &check_files::real_environment(env)?)
}

/// The same without a look at the real outside.
pub fn replica(url: &str, environment: &Environment<'_>) -> Result<Replica> {
    resolve_replica::replica(ReplicaSettings::of_url(url)?, ReplicaSettings::default(), environment)
}

/// The configuration in a text.
pub fn parse(text: &str, environment: &Environment<'_>, expand: bool) -> Result<Config> {
    let document = Document::parse(text, expand.then_some(environment.env))?;
    let root = document.root()?;
    let mut warnings = keys::check(&root, &keys::GLOBAL)?;
    let mut config = parse_top_level(&root, environment, &mut warnings)?;
    let inherited = Defaults { layer: ReplicaSettings::read(&root, environment)?, snapshot: config.snapshot };
    let sections = root.sections("dbs")?;
    let read = |section| dbs_entry::read(section, &inherited, environment, &mut warnings);
    let entries = sections.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut distinct = DistinctDatabases::default();
    for (section, entry) in sections.iter().zip(&entries) {
        distinct.add(entry.database()).or_else(|overlap| match section.has(overlap.key) {
            true => section.with_key_context(overlap.key, Err(overlap.error)),
            false => section.with_section_context(Err(overlap.error)),
        })?;
    }
    for entry in entries {
        match entry {
            DbsEntry::Database(database) => config.dbs.push(database),
            DbsEntry::Directory(dir) => config.dirs.push(dir),
        }
    }
    config.warnings = warnings;
    if config.dbs.is_empty() && config.dirs.is_empty() {
        return Err(Error::new(Kind::Usage, "no database is configured").with_hint("add one under dbs"));
    }
    Ok(config)
}

/// What the top level says, but for the databases and what replicas inherit.
fn parse_top_level(root: &Section<'_>, environment: &Environment<'_>, warnings: &mut Vec<String>) -> Result<Config> {
    Ok(Config {
        dbs: Vec::new(),
        dirs: Vec::new(),
        logging: logging(root, environment, warnings)?,
        snapshot: snapshot_policy::read_top_level(root, warnings)?,
        metrics_file: file(root, "metrics-file", environment)?,
        heartbeat: heartbeat(root)?,
        shutdown_sync_timeout: root.duration("shutdown-sync-timeout")?.unwrap_or(DEFAULT_SHUTDOWN_SYNC_TIMEOUT),
        service: root.bool("service")?.unwrap_or(true),
        exec: exec(root)?,
        warnings: Vec::new(),
    })
}

impl Config {
    /// One database, and the default for everything else.
    pub fn single_database(database: Database) -> Config {
        Config {
            dbs: vec![database],
            dirs: Vec::new(),
            logging: Logging { level: None, format: LogFormat::Logfmt },
            snapshot: SnapshotPolicy::default(),
            metrics_file: None,
            heartbeat: None,
            shutdown_sync_timeout: DEFAULT_SHUTDOWN_SYNC_TIMEOUT,
            service: true,
            exec: None,
            warnings: Vec::new(),
        }
    }

    /// The database that the user calls `path`, also one that a directory entry covers.
    pub fn find(&self, path: &str, env: LookupVar<'_>) -> Result<Database> {
        let path = check_files::real_environment(env)?
            .database_path(path)
            .with_context(|| format!("database {:?}", mask_credentials(path)))?;
        if let Some(database) = self.dbs.iter().find(|database| database.path == path) {
            return Ok(database.clone());
        }
        let in_dir = |dir: &DatabaseDir| {
            let relative = path.strip_prefix(dir.dir()).ok().filter(|relative| dir.matches(relative))?;
            Some(dir.database(relative))
        };
        self.dirs.iter().find_map(in_dir).unwrap_or_else(|| {
            Err(Error::new(Kind::Usage, format!("database {}: not in the configuration", path.display()))
                .with_hint("litestream databases lists the configured ones"))
        })
    }
}

/// Servers are told apart by name only: two lists with one server in common are one cluster.
pub(crate) fn is_same_location(one: &StoreTarget, other: &StoreTarget) -> bool {
    match (one, other) {
        (StoreTarget::Dir(one), StoreTarget::Dir(other)) => one == other,
        (StoreTarget::Nats(one), StoreTarget::Nats(other)) => {
            let is_one_place = one.bucket == other.bucket && one.prefix == other.prefix;
            is_one_place && one.servers.iter().any(|server| other.servers.contains(server))
        }
        _ => false,
    }
}

fn logging(root: &Section<'_>, environment: &Environment<'_>, warnings: &mut Vec<String>) -> Result<Logging> {
    let mut logging = Logging { level: None, format: LogFormat::Logfmt };
    if let Some(section) = root.section("logging")? {
        warnings.extend(keys::check(&section, &keys::LOGGING)?);
        if let Some(text) = section.text("level")? {
            logging.level = Some(section.with_key_context("level", level(&text))?);
        }
        logging.format = match section.text("type")?.as_deref() {
            None | Some("text" | "logfmt" | "pretty") => LogFormat::Logfmt,
            Some("json") => LogFormat::Json,
            Some(other) => return Err(section.error("type", format!("expected text or json, found {other:?}"))),
        };
    }
    logging.level = log_level(environment.env)?.or(logging.level);
    Ok(logging)
}

/// The level that `LOG_LEVEL` asks for: over that of the file, under that of the command line.
pub fn log_level(env: LookupVar<'_>) -> Result<Option<Level>> {
    let text = env("LOG_LEVEL").filter(|text| !text.is_empty());
    text.map(|text| level(&text)).transpose().with_context(|| "LOG_LEVEL")
}

fn level(text: &str) -> Result<Level> {
    Level::parse(text)
        .ok_or_else(|| Error::new(Kind::Usage, format!("expected trace, debug, info, warn or error, found {text:?}")))
}

fn exec(root: &Section<'_>) -> Result<Option<Vec<String>>> {
    let command = root.text("exec")?;
    root.with_key_context("exec", command.map(|text| shell_words::split(&text)).transpose())
}

fn file(section: &Section<'_>, key: &str, environment: &Environment<'_>) -> Result<Option<PathBuf>> {
    let path = section.text(key)?.map(|text| environment.absolute(&text)).transpose();
    section.with_key_context(key, path)
}

fn heartbeat(root: &Section<'_>) -> Result<Option<Heartbeat>> {
    let interval = root.duration("heartbeat-interval")?;
    if interval.is_some_and(|interval| interval < MIN_HEARTBEAT_INTERVAL) {
        return Err(root.error("heartbeat-interval", "expected 1m or more"));
    }
    let Some(url) = root.text("heartbeat-url")? else {
        return match interval {
            Some(_) => Err(root.error("heartbeat-interval", "needs heartbeat-url")),
            None => Ok(None),
        };
    };
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(root.error("heartbeat-url", "expected a URL that begins with http:// or https://"));
    }
    let interval = interval.unwrap_or(DEFAULT_HEARTBEAT_INTERVAL);
    Ok(Some(Heartbeat { url: Secret::new(url), interval }))
}
