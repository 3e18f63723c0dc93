//! Words of other programs of this kind that mean nothing here, and what to use instead.

/// What to use instead of a command.
pub(super) fn replacement_for_command(name: &str) -> Option<&'static str> {
    let instead = match name {
        "ltx" => "backups here are WAL segments: litestream wal DB_PATH|REPLICA_URL lists them",
        "sync" => "litestream replicate -once stores what is committed now",
        "register" | "unregister" => {
            "there is no control socket: change dbs in the configuration and restart replicate"
        }
        "start" | "stop" => "there is no control socket: start and stop the replicate process itself",
        "check" => "litestream verify reads a backup back, litestream status compares positions",
        "backup" => "litestream snapshot stores the state of now, litestream replicate replicates continuously",
        "expire" => "litestream snapshot -enforce-retention deletes objects that retention no longer needs",
        "rm" | "remove" | "purge" | "stanza-delete" => "litestream delete REPLICA_URL deletes a stored database",
        "info" => "litestream status shows position and lag, litestream version the version",
        "reset" => "there is no local state to reset: replicate starts a new generation by itself when needed",
        _ => return None,
    };
    Some(instead)
}

/// What to use instead of an option.
pub(super) fn replacement_for_option(name: &str) -> Option<&'static str> {
    let instead = match name {
        "txid" => "use -position GENERATION/INDEX:OFFSET (litestream wal lists them) or -timestamp",
        "index" => "use -position GENERATION/INDEX:OFFSET (litestream wal lists them)",
        "parallelism" => "leave it out: reads are always kept in flight",
        "level" => "leave it out: there are no compaction levels",
        "socket" => "leave it out: there is no control socket",
        "timeout" => "set timeout in the configuration: it holds for every operation of a replica",
        "wait" => "leave it out: a command ends only when everything is stored",
        "output" | "output-path" | "db-path" | "pg1-path" => "use -o PATH",
        "overwrite" | "replace" | "delta" => "use -force, which replaces an existing file once the restore is complete",
        "time" | "target" | "target-time" | "at" => "use -timestamp T",
        "set" => "use -generation G or -position P (litestream generations and wal list them)",
        "if-exists" | "if-not-exists" => "use -if-replica-exists or -if-db-not-exists",
        "follow" => "use -f",
        "type" => "leave it out, or use -timestamp T, -position P or -generation G",
        "stanza" | "repo" | "repo1-path" => "name the database or its replica URL as the argument",
        "y" | "no-confirm" => "use -yes",
        "repo1-retention-full" | "keep" | "retain" => "use -retention D with -enforce-retention",
        "quiet" | "silent" => "use -q, for restore, snapshot and verify",
        "dry" | "n" => "use -dry-run",
        "v" | "verbose" => "use -log-level debug",
        _ => return None,
    };
    Some(instead)
}
