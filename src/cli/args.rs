//! The words of the command line as `argh` knows them: one structure a command, every value still a text.
//!
//! The pre-pass (`normal`) and the help texts (`help`) are driven by the same structures, so that an option is written
//! down once. Long names only: the pre-pass accepts each with one dash or two.
//! What is said of each stands in man/completions too, where tests/docs/completions.rs holds it to these words.

use argh::{ArgsInfo, FromArgs};

/// Continuous backup of live SQLite databases to a NATS Object Store
#[derive(FromArgs, ArgsInfo)]
pub(super) struct Arguments {
    /// default $LITESTREAM_CONFIG or /etc/litestream.yml
    #[argh(option, arg_name = "PATH")]
    pub config: Option<String>,
    /// trace, debug, info, warn or error (default info)
    #[argh(option, arg_name = "LEVEL")]
    pub log_level: Option<String>,
    /// do not replace $VAR in the configuration
    #[argh(switch)]
    pub no_expand_env: bool,
    /// context of the nats CLI (default $NATS_CONTEXT)
    #[argh(option, arg_name = "NAME")]
    pub context: Option<String>,
    /// of a database with several replicas, only this one
    #[argh(option, arg_name = "NAME|URL")]
    pub replica: Option<String>,
    #[argh(subcommand)]
    pub command: Subcommand,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub(super) enum Subcommand {
    Replicate(ReplicateArgs),
    Restore(RestoreArgs),
    Snapshot(SnapshotArgs),
    Delete(DeleteArgs),
    List(ListArgs),
    Compact(CompactArgs),
    Databases(DatabasesArgs),
    Generations(GenerationsArgs),
    Snapshots(SnapshotsArgs),
    Wal(WalArgs),
    Status(StatusArgs),
    Verify(VerifyArgs),
    Version(VersionArgs),
}

/// back up databases continuously, in the foreground
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "replicate")]
pub(super) struct ReplicateArgs {
    /// database and replica, instead of a configuration file
    #[argh(positional, arg_name = "DB_PATH REPLICA_URL")]
    pub positionals: Vec<String>,
    /// run CMD while replicating; exit with its status
    #[argh(option, arg_name = "CMD")]
    pub exec: Option<String>,
    /// store what is committed now and exit
    #[argh(switch)]
    pub once: bool,
    /// with -once: take a snapshot even if none is due
    #[argh(switch)]
    pub force_snapshot: bool,
    /// with -once: delete what retention no longer needs
    #[argh(switch)]
    pub enforce_retention: bool,
    /// restore a missing database before replication
    #[argh(switch)]
    pub restore_if_db_not_exists: bool,
    /// create the bucket if it does not exist
    #[argh(switch)]
    pub create_bucket: bool,
    /// replace the backup of another database
    #[argh(switch)]
    pub allow_other_database: bool,
    /// store in clear after what is encrypted
    #[argh(switch)]
    pub allow_unencrypted: bool,
    /// tell a replicator of the same prefix to stop
    #[argh(switch)]
    pub takeover: bool,
}

/// restore a database from its replica
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "restore")]
pub(super) struct RestoreArgs {
    /// configured database, or replica URL
    #[argh(positional, arg_name = "DB_PATH|REPLICA_URL")]
    pub positionals: Vec<String>,
    /// output file (default: the path of the database)
    #[argh(option, arg_name = "PATH")]
    pub o: Option<String>,
    /// every configured database, or all below REPLICA_URL
    #[argh(switch)]
    pub all: bool,
    /// the last commit not later than this: RFC 3339 or -1h
    #[argh(option, arg_name = "T")]
    pub timestamp: Option<String>,
    /// with -timestamp: fail if T is after the newest commit
    #[argh(switch)]
    pub strict: bool,
    /// the newest commit of this generation
    #[argh(option, arg_name = "G")]
    pub generation: Option<String>,
    /// exactly this commit: generation/index:offset
    #[argh(option, arg_name = "P")]
    pub position: Option<String>,
    /// exit with status 0 if the output exists
    #[argh(switch)]
    pub if_db_not_exists: bool,
    /// exit with status 0 if there is no backup
    #[argh(switch)]
    pub if_replica_exists: bool,
    /// replace an existing output
    #[argh(switch)]
    pub force: bool,
    /// replace the output even if a process has it open
    #[argh(switch)]
    pub force_open: bool,
    /// restore even the backup of another database
    #[argh(switch)]
    pub allow_other_database: bool,
    /// print the objects that would be read, write nothing
    #[argh(switch)]
    pub dry_run: bool,
    /// check by SQLite: none, quick or full (default none)
    #[argh(option, arg_name = "LEVEL")]
    pub integrity_check: Option<String>,
    /// keep the output up to date until stopped
    #[argh(switch)]
    pub f: bool,
    /// end -f for good: the copy becomes writable
    #[argh(switch)]
    pub promote: bool,
    /// with -f: poll interval (default 1s)
    #[argh(option, arg_name = "D")]
    pub follow_interval: Option<String>,
    /// with -f: run CMD beside it; exit with its status
    #[argh(option, arg_name = "CMD")]
    pub exec: Option<String>,
    /// with -exec: tell CMD of another file: HUP, USR1, ...
    #[argh(option, arg_name = "SIGNAL")]
    pub exec_signal: Option<String>,
    /// file of age identities that decrypt the backup
    #[argh(option, arg_name = "FILE")]
    pub identity: Option<String>,
    /// print nothing but warnings and errors
    #[argh(switch)]
    pub q: bool,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// store the state of a database now, and exit
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "snapshot")]
pub(super) struct SnapshotArgs {
    /// default: every configured database
    #[argh(positional, arg_name = "[DB_PATH [REPLICA_URL]]")]
    pub positionals: Vec<String>,
    /// store the whole database, not only what changed
    #[argh(switch)]
    pub full: bool,
    /// create the bucket if it does not exist
    #[argh(switch)]
    pub create_bucket: bool,
    /// replace the backup of another database
    #[argh(switch)]
    pub allow_other_database: bool,
    /// store in clear after what is encrypted
    #[argh(switch)]
    pub allow_unencrypted: bool,
    /// delete what retention no longer needs
    #[argh(switch)]
    pub enforce_retention: bool,
    /// with -enforce-retention: override the configuration
    #[argh(option, arg_name = "D")]
    pub retention: Option<String>,
    /// print nothing but warnings and errors
    #[argh(switch)]
    pub q: bool,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// delete a backup: every object below its prefix
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "delete")]
pub(super) struct DeleteArgs {
    /// configured database, or replica URL
    #[argh(positional, arg_name = "DB_PATH|REPLICA_URL")]
    pub positionals: Vec<String>,
    /// print what would be deleted, delete nothing
    #[argh(switch)]
    pub dry_run: bool,
    /// do not ask for confirmation
    #[argh(switch)]
    pub yes: bool,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// list every database in a bucket or directory
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
pub(super) struct ListArgs {
    /// bucket, prefix or directory that holds databases
    #[argh(positional, arg_name = "REPLICA_URL")]
    pub positionals: Vec<String>,
    /// report databases whose newest state is older, exit 1
    #[argh(option, arg_name = "D")]
    pub max_age: Option<String>,
    /// report prefixes in FILE without a backup, exit 1
    #[argh(option, arg_name = "FILE")]
    pub missing: Option<String>,
    /// file of age identities that decrypt the backup
    #[argh(option, arg_name = "FILE")]
    pub identity: Option<String>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// merge segments and apply retention, without databases
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "compact")]
pub(super) struct CompactArgs {
    /// bucket, prefix or directory (default: the configuration)
    #[argh(positional, arg_name = "REPLICA_URL")]
    pub positionals: Vec<String>,
    /// make one pass and exit
    #[argh(switch)]
    pub once: bool,
    /// time between two passes (default: 10m)
    #[argh(option, arg_name = "D")]
    pub interval: Option<String>,
    /// with REPLICA_URL: delete what only older states need
    #[argh(option, arg_name = "D")]
    pub retention: Option<String>,
    /// with REPLICA_URL: thin out, such as all=24h,hourly=7d
    #[argh(option, arg_name = "K")]
    pub keep: Option<String>,
    /// write metrics to this file after each pass
    #[argh(option, arg_name = "FILE")]
    pub metrics_file: Option<String>,
    /// print what one pass would do, do nothing
    #[argh(switch)]
    pub dry_run: bool,
    /// file of age identities that decrypt the backup
    #[argh(option, arg_name = "FILE")]
    pub identity: Option<String>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// list the databases in the configuration
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "databases")]
pub(super) struct DatabasesArgs {
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// list the stored generations of a database
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "generations")]
pub(super) struct GenerationsArgs {
    /// configured database, or replica URL
    #[argh(positional, arg_name = "DB_PATH|REPLICA_URL")]
    pub positionals: Vec<String>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// list the stored snapshots of a database
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "snapshots")]
pub(super) struct SnapshotsArgs {
    /// configured database, or replica URL
    #[argh(positional, arg_name = "DB_PATH|REPLICA_URL")]
    pub positionals: Vec<String>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// list the stored WAL segments of a database
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "wal")]
pub(super) struct WalArgs {
    /// configured database, or replica URL
    #[argh(positional, arg_name = "DB_PATH|REPLICA_URL")]
    pub positionals: Vec<String>,
    /// only this generation
    #[argh(option, arg_name = "G")]
    pub generation: Option<String>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// compare databases with their backups: position and lag
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status")]
pub(super) struct StatusArgs {
    /// default: all configured; URL alone: ask replicator
    #[argh(positional, arg_name = "[DB_PATH] [REPLICA_URL]")]
    pub positionals: Vec<String>,
    /// file of age identities that decrypt the backup
    #[argh(option, arg_name = "FILE")]
    pub identity: Option<String>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// check that a backup can be restored
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "verify")]
pub(super) struct VerifyArgs {
    /// default: every configured database
    #[argh(positional, arg_name = "[DB_PATH] [REPLICA_URL]")]
    pub positionals: Vec<String>,
    /// compare the live database with its checksum alone
    #[argh(switch)]
    pub live: bool,
    /// file of age identities that decrypt the backup
    #[argh(option, arg_name = "FILE")]
    pub identity: Option<String>,
    /// print nothing but warnings and errors
    #[argh(switch)]
    pub q: bool,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// print the version
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "version")]
pub(super) struct VersionArgs {
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}
