//! Which words may stand together: from texts to a checked invocation.

use std::path::PathBuf;
use std::time::Duration;

use super::args::{self, Arguments, Subcommand};
use super::positional::{at_most_one, database_selection, exactly_one, is_url, status_target, verify_target};
use super::*;
use crate::config::{keep, shell_words, units};
use crate::error::ResultExt;

pub(super) fn into_invocation(arguments: Arguments) -> Result<Invocation> {
    let log_level = arguments.log_level.as_deref().map(level).transpose()?;
    let identity = identity(&arguments.command).map(PathBuf::from);
    let command = command(arguments.command)?;
    let context = arguments.context;
    if context.as_deref() == Some("") {
        return Err(Error::usage("option -context: expected a name, found nothing"));
    }
    if arguments.config.is_some() && names_a_replica(&command) {
        return Err(Error::usage("a replica URL and the option -config are both given")
            .with_hint("leave one out: with a URL no configuration file is read"));
    }
    if arguments.replica.is_some() {
        check_replica_option(&command)?;
    }
    Ok(Invocation {
        replica: arguments.replica,
        identity,
        config: arguments.config.map(PathBuf::from),
        log_level,
        expand_env: !arguments.no_expand_env,
        context,
        command,
    })
}

/// Of the commands that read what is stored, the file of identities.
fn identity(words: &Subcommand) -> Option<&str> {
    let file = match words {
        Subcommand::Restore(args) => &args.identity,
        Subcommand::List(args) => &args.identity,
        Subcommand::Compact(args) => &args.identity,
        Subcommand::Status(args) => &args.identity,
        Subcommand::Verify(args) => &args.identity,
        _ => &None,
    };
    file.as_deref()
}

fn command(words: Subcommand) -> Result<Command> {
    Ok(match words {
        Subcommand::Replicate(args) => Command::Replicate(replicate(args)?),
        Subcommand::Restore(args) => Command::Restore(restore(args)?),
        Subcommand::Snapshot(args) => Command::Snapshot(SnapshotOptions {
            selection: database_selection("snapshot", args.positionals)?,
            full: args.full,
            create_bucket: args.create_bucket,
            allow_other_database: args.allow_other_database,
            allow_unencrypted: args.allow_unencrypted,
            retention: retention(args.enforce_retention, args.retention.as_deref())?,
            enforce_retention: args.enforce_retention,
            quiet: quiet(args.q, args.json)?,
            json: args.json,
        }),
        Subcommand::Delete(args) => Command::Delete(DeleteOptions {
            source: exactly_one("delete", args.positionals)?,
            dry_run: args.dry_run,
            confirmed: args.yes,
            json: args.json,
        }),
        Subcommand::List(args) => Command::List(list(args)?),
        Subcommand::Compact(args) => Command::Compact(compact(args)?),
        Subcommand::Databases(args) => Command::Databases { json: args.json },
        Subcommand::Generations(args) => {
            Command::Generations(listing("generations", args.positionals, None, args.json)?)
        }
        Subcommand::Snapshots(args) => Command::Snapshots(listing("snapshots", args.positionals, None, args.json)?),
        Subcommand::Wal(args) => Command::Wal(listing("wal", args.positionals, args.generation, args.json)?),
        Subcommand::Status(args) => {
            Command::Status(StatusOptions { target: status_target(args.positionals)?, json: args.json })
        }
        Subcommand::Verify(args) => Command::Verify(verify(args)?),
        Subcommand::Version(args) => Command::Version { json: args.json },
    })
}

fn replicate(args: args::ReplicateArgs) -> Result<ReplicateOptions> {
    if args.once && args.exec.is_some() {
        return Err(exclusive("-once", "-exec"));
    }
    needs_once(&args)?;
    let pair = match database_selection("replicate", args.positionals)? {
        DatabaseSelection::Configured => None,
        DatabaseSelection::Explicit(pair) => Some(pair),
        DatabaseSelection::Path(_) => {
            return Err(Error::usage("replicate: a database is given without its replica")
                .with_hint("litestream replicate DB_PATH REPLICA_URL, or no argument to use the configuration"));
        }
    };
    Ok(ReplicateOptions {
        pair,
        exec: args.exec.map(|text| shell_words::split(&text)).transpose().map_err(|e| e.context("option -exec"))?,
        once: args.once,
        force_snapshot: args.force_snapshot,
        enforce_retention: args.enforce_retention,
        restore_if_missing: args.restore_if_db_not_exists,
        create_bucket: args.create_bucket,
        allow_other_database: args.allow_other_database,
        allow_unencrypted: args.allow_unencrypted,
        takeover: args.takeover,
    })
}

fn needs_once(args: &args::ReplicateArgs) -> Result<()> {
    for (given, name) in [(args.force_snapshot, "-force-snapshot"), (args.enforce_retention, "-enforce-retention")] {
        if given && !args.once {
            return Err(Error::usage(format!("option {name} works only with -once"))
                .with_hint("without -once, snapshots and retention follow the configuration"));
        }
    }
    Ok(())
}

fn restore(args: args::RestoreArgs) -> Result<RestoreOptions> {
    restore_conflicts(&args)?;
    if args.strict && args.timestamp.is_none() {
        return Err(Error::usage("option -strict works only with -timestamp"));
    }
    let follow = follow(args.f, args.follow_interval.as_deref())?;
    let until = restore_target(args.timestamp.as_deref(), args.position.as_deref())?;
    let source = restore_source(args.all, args.positionals)?;
    if args.o.as_deref() == Some("-") {
        return Err(Error::usage("option -o: a restore writes a file, not standard output")
            .with_hint("restore to a file and read that file; a file named - is ./-"));
    }
    let is_url = matches!(source, RestoreSource::One(ReplicaRef::Replica(_)) | RestoreSource::Below(_));
    if is_url && args.o.is_none() && !args.dry_run {
        return Err(Error::usage("restore: option -o is needed with a replica URL").with_hint("add -o PATH"));
    }
    Ok(RestoreOptions {
        source,
        output: args.o.map(PathBuf::from),
        target: until,
        strict: args.strict,
        generation: args.generation.map(|text| text.parse()).transpose()?,
        if_db_not_exists: args.if_db_not_exists,
        if_replica_exists: args.if_replica_exists,
        force: args.force,
        force_open: args.force_open,
        allow_other_database: args.allow_other_database,
        dry_run: args.dry_run,
        integrity_check: integrity_check(args.integrity_check.as_deref())?,
        follow,
        exec: follow_command(args.f, args.exec.as_deref())?,
        exec_signal: exec_signal(args.exec.is_some(), args.exec_signal.as_deref())?,
        promote: args.promote,
        quiet: quiet(args.q, args.json)?,
        json: args.json,
    })
}

/// One database, or with -all every one of the configuration or below a URL.
fn restore_source(all: bool, words: Vec<String>) -> Result<RestoreSource> {
    if !all {
        if words.is_empty() {
            return Err(Error::usage("restore: no database is given")
                .with_hint("litestream restore DB_PATH|REPLICA_URL, or -all for every database of the configuration"));
        }
        return exactly_one("restore", words).map(RestoreSource::One);
    }
    match at_most_one("restore -all", words)? {
        None => Ok(RestoreSource::Configured),
        Some(url) if is_url(&url) => Ok(RestoreSource::Below(Secret::new(url))),
        Some(_) => Err(Error::usage("restore -all: expected a replica URL, found a path")
            .with_hint("litestream restore -all -o DIR nats://HOST/BUCKET or file:///DIRECTORY; without one, every database of the configuration")),
    }
}

fn quiet(quiet: bool, json: bool) -> Result<bool> {
    if quiet && json { Err(exclusive("-q", "-json")) } else { Ok(quiet) }
}

fn retention(enforced: bool, text: Option<&str>) -> Result<Option<Duration>> {
    let Some(text) = text else { return Ok(None) };
    if !enforced {
        return Err(Error::usage("option -retention works only with -enforce-retention"));
    }
    positive_duration("-retention", text).map(Some)
}

/// Options that say two things at once.
fn restore_conflicts(args: &args::RestoreArgs) -> Result<()> {
    let timestamp = (args.timestamp.is_some(), "-timestamp");
    let position = (args.position.is_some(), "-position");
    let generation = (args.generation.is_some(), "-generation");
    let follow = (args.f, "-f");
    let promote = (args.promote, "-promote");
    let all = (args.all, "-all");
    let dry_run = (args.dry_run, "-dry-run");
    let pairs = [
        (timestamp, position),
        (follow, promote),
        (timestamp, promote),
        (position, promote),
        (generation, promote),
        (dry_run, promote),
        (all, promote),
        (timestamp, follow),
        (position, follow),
        (position, generation),
        (generation, follow),
        (dry_run, follow),
        (all, position),
        (all, generation),
        ((args.force, "-force"), (args.if_db_not_exists, "-if-db-not-exists")),
        ((args.force_open, "-force-open"), (args.if_db_not_exists, "-if-db-not-exists")),
    ];
    let clash = pairs.into_iter().find(|((one, _), (other, _))| *one && *other);
    match clash {
        Some(((_, one), (_, other))) => Err(exclusive(one, other)),
        None => Ok(()),
    }
}

fn follow(on: bool, interval: Option<&str>) -> Result<Option<Duration>> {
    match (on, interval) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Error::usage("option -follow-interval works only with -f")),
        (true, None) => Ok(Some(DEFAULT_FOLLOW_INTERVAL)),
        (true, Some(text)) => positive_duration("-follow-interval", text).map(Some),
    }
}

fn follow_command(on: bool, command: Option<&str>) -> Result<Option<Vec<String>>> {
    match command {
        Some(_) if !on => Err(Error::usage("option -exec works only with -f")),
        command => command.map(shell_words::split).transpose().map_err(|e| e.context("option -exec")),
    }
}

fn exec_signal(on: bool, name: Option<&str>) -> Result<Option<&'static str>> {
    let Some(name) = name else { return Ok(None) };
    if !on {
        return Err(Error::usage("option -exec-signal works only with -exec"));
    }
    let known = EXEC_SIGNALS.into_iter().find(|known| *known == name.trim_start_matches("SIG"));
    known.map(Some).ok_or_else(|| {
        let names = EXEC_SIGNALS.join(", ");
        Error::usage(format!("option -exec-signal: expected one of {names}, found {name:?}"))
    })
}

fn restore_target(timestamp: Option<&str>, position: Option<&str>) -> Result<RestoreTarget> {
    match (timestamp, position) {
        (Some(text), _) => moment(text).map(RestoreTarget::Time).map_err(|e| e.context("option -timestamp")),
        (_, Some(text)) => text.parse().map(RestoreTarget::Position).map_err(|e: Error| e.context("option -position")),
        (None, None) => Ok(RestoreTarget::Latest),
    }
}

/// A moment, or how long ago it was.
fn moment(text: &str) -> Result<Moment> {
    match text.strip_prefix('-') {
        Some(ago) => units::duration(ago).map(Moment::Ago),
        None => Moment::parse(text),
    }
}

fn integrity_check(text: Option<&str>) -> Result<Option<IntegrityCheck>> {
    match text {
        None | Some("none") => Ok(None),
        Some("quick") => Ok(Some(IntegrityCheck::Quick)),
        Some("full") => Ok(Some(IntegrityCheck::Full)),
        Some(other) => {
            Err(Error::usage(format!("option -integrity-check: expected none, quick or full, found {other:?}")))
        }
    }
}

fn level(text: &str) -> Result<Level> {
    Level::parse(text).ok_or_else(|| {
        Error::usage(format!("option -log-level: expected trace, debug, info, warn or error, found {text:?}"))
    })
}

fn listing(command: &str, words: Vec<String>, generation: Option<String>, json: bool) -> Result<HistoryOptions> {
    let source = exactly_one(command, words)?;
    let generation = generation.map(|text| text.parse()).transpose()?;
    Ok(HistoryOptions { source, generation, json })
}

fn list(args: args::ListArgs) -> Result<ListOptions> {
    let url = at_most_one("list", args.positionals)?.ok_or_else(|| {
        Error::usage("list: no replica URL is given").with_hint(
            "litestream list nats://HOST/BUCKET or a directory; litestream databases lists the configuration",
        )
    })?;
    let max_age = args.max_age.as_deref().map(|text| positive_duration("-max-age", text)).transpose()?;
    Ok(ListOptions { url: Secret::new(url), max_age, expected: args.missing.map(PathBuf::from), json: args.json })
}

/// Between two passes of `compact`, unless it is told.
const COMPACT_INTERVAL: Duration = Duration::from_secs(600);

fn compact(args: args::CompactArgs) -> Result<CompactOptions> {
    let url = at_most_one("compact", args.positionals)?.map(Secret::new);
    let single = args.once || args.dry_run;
    let interval = match (single, args.interval.as_deref()) {
        (true, Some(_)) => return Err(exclusive(if args.once { "-once" } else { "-dry-run" }, "-interval")),
        (true, None) => None,
        (false, None) => Some(COMPACT_INTERVAL),
        (false, Some(text)) => Some(positive_duration("-interval", text)?),
    };
    if args.json && !single {
        return Err(Error::usage("option -json works only with -once or -dry-run")
            .with_hint("without them compact runs until stopped and logs its work"));
    }
    let retention = args.retention.as_deref().map(|text| positive_duration("-retention", text)).transpose()?;
    if retention.is_some() && url.is_none() {
        return Err(Error::usage("option -retention works only with a REPLICA_URL")
            .with_hint("set it in the configuration: snapshot: { retention: ... }"));
    }
    let keep = args.keep.as_deref().map(keep::from_words).transpose().with_context(|| "option -keep")?;
    if keep.is_some() && url.is_none() {
        return Err(Error::usage("option -keep works only with a REPLICA_URL")
            .with_hint("set it in the configuration: keep: { all: 24h, hourly: 7d }"));
    }
    if keep.is_some() && retention.is_some() {
        return Err(exclusive("-keep", "-retention"));
    }
    if args.dry_run && args.metrics_file.is_some() {
        return Err(exclusive("-dry-run", "-metrics-file"));
    }
    let metrics_file = args.metrics_file.map(PathBuf::from);
    Ok(CompactOptions { url, interval, retention, keep, metrics_file, dry_run: args.dry_run, json: args.json })
}

fn positive_duration(option: &str, text: &str) -> Result<Duration> {
    let duration = units::duration(text).map_err(|e| e.context(format!("option {option}")))?;
    if duration.is_zero() {
        return Err(Error::usage(format!("option {option}: expected more than 0, found 0")));
    }
    Ok(duration)
}

/// The option -replica chooses among the replicas of the configuration.
fn check_replica_option(command: &Command) -> Result<()> {
    let chooses = match command {
        Command::Restore(_) | Command::Snapshot(_) | Command::Delete(_) | Command::Status(_) => true,
        Command::Generations(_) | Command::Snapshots(_) | Command::Wal(_) | Command::Verify(_) => true,
        Command::Replicate(_) | Command::List(_) | Command::Compact(_) => false,
        Command::Databases { .. } | Command::Version { .. } => false,
    };
    if !chooses {
        return Err(Error::usage(
            "option -replica works only with restore, snapshot, delete, status, verify, generations, snapshots and wal",
        ));
    }
    match names_a_replica(command) {
        true => Err(Error::usage("a replica URL and the option -replica are both given")
            .with_hint("leave one out: -replica chooses among those of a database in the configuration")),
        false => Ok(()),
    }
}

fn names_a_replica(command: &Command) -> bool {
    match command {
        Command::Replicate(replicate) => replicate.pair.is_some(),
        Command::Snapshot(SnapshotOptions { selection: chosen, .. }) => {
            matches!(chosen, DatabaseSelection::Explicit(_))
        }
        Command::Status(StatusOptions { target: StatusTarget::Compared(chosen), .. }) => {
            matches!(chosen, DatabaseSelection::Explicit(_))
        }
        Command::Status(_) => true,
        Command::Restore(RestoreOptions { source, .. }) => {
            matches!(source, RestoreSource::One(ReplicaRef::Replica(_)) | RestoreSource::Below(_))
        }
        Command::Delete(DeleteOptions { source, .. })
        | Command::Generations(HistoryOptions { source, .. })
        | Command::Snapshots(HistoryOptions { source, .. })
        | Command::Wal(HistoryOptions { source, .. }) => matches!(source, ReplicaRef::Replica(_)),
        Command::Verify(VerifyOptions { target: proven, .. }) => {
            matches!(proven, VerifyTarget::Replica(_) | VerifyTarget::Pair(_))
        }
        Command::List(_) => true,
        Command::Compact(compact) => compact.url.is_some(),
        Command::Databases { .. } | Command::Version { .. } => false,
    }
}

fn verify(args: args::VerifyArgs) -> Result<VerifyOptions> {
    let target = verify_target(args.positionals)?;
    if args.live && matches!(target, VerifyTarget::Replica(_)) {
        return Err(Error::usage("verify -live: expected the path of a database, found a replica alone"));
    }
    Ok(VerifyOptions { target, live: args.live, quiet: quiet(args.q, args.json)?, json: args.json })
}

fn exclusive(one: &str, other: &str) -> Error {
    Error::usage(format!("options {one} and {other} exclude each other"))
}
