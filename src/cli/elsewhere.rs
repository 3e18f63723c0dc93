//! Words of other programs of this kind that mean nothing here, and what to use instead.

/// What to use instead of a command.
pub(super) fn command(name: &str) -> Option<&'static str> {
    let instead = match name {
        "ltx" => "backups here are WAL segments: litestream wal DB_PATH|REPLICA_URL lists them",
        "sync" => "litestream replicate -once stores what is committed now",
        "register" | "unregister" => {
            "there is no control socket: change dbs in the configuration and restart replicate"
        }
        "start" | "stop" => "there is no control socket: start and stop the replicate process itself",
        "list" => "litestream databases lists the configuration, litestream status what is stored",
        "info" => "litestream status shows position and lag, litestream version the version",
        "reset" => "there is no local state to reset: replicate starts a new generation by itself when it must",
        _ => return None,
    };
    Some(instead)
}

/// What to use instead of an option.
pub(super) fn option(name: &str) -> Option<&'static str> {
    let instead = match name {
        "txid" => "use -position GENERATION/INDEX:OFFSET (litestream wal lists them) or -timestamp",
        "index" => "use -position GENERATION/INDEX:OFFSET (litestream wal lists them)",
        "parallelism" => "leave it out: reads are always kept in flight",
        "replica" => "leave it out: a database has one replica",
        "level" => "leave it out: there are no compaction levels",
        "socket" => "leave it out: there is no control socket",
        "timeout" => "set timeout in the configuration: it holds for every operation of a replica",
        "wait" => "leave it out: a command ends only when all is stored",
        "v" | "verbose" => "use -log-level debug",
        _ => return None,
    };
    Some(instead)
}
