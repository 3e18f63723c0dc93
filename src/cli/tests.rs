//! What people type, and what is made of it.

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_string).collect()
}

fn run(line: &str) -> Invocation {
    match parse(&words(line)) {
        Ok(Parsed::Run(invocation)) => invocation,
        other => panic!("{line}: {other:?}"),
    }
}

fn refused(line: &str) -> (String, String) {
    let error = parse(&words(line)).expect_err(line);
    assert_eq!(error.kind(), Kind::Usage, "{line}");
    (error.message().to_string(), error.hint().unwrap_or_default().to_string())
}

fn help(line: &str) -> String {
    match parse(&words(line)) {
        Ok(Parsed::Help(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_spelling_of_an_option_is_the_same() {
    let expected = run("restore -o out.db nats://h/b");
    for line in [
        "restore --o out.db nats://h/b",
        "restore -o=out.db nats://h/b",
        "restore --o=out.db nats://h/b",
        "restore nats://h/b -o out.db",
        "restore -o out.db -- nats://h/b",
        "restore -o out.db -json=false nats://h/b",
    ] {
        assert_eq!(run(line), expected, "{line}");
    }
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    let expected = run("-config a.yml -log-level debug -no-expand-env -context c databases -json");
    for line in [
        "databases -json --config=a.yml --log-level=debug --no-expand-env --context c",
        "--config a.yml -context=c databases -no-expand-env -json -log-level DEBUG",
    ] {
        assert_eq!(run(line), expected, "{line}");
    }
    assert_eq!(expected.config, Some(PathBuf::from("a.yml")));
    assert_eq!(expected.log_level, Some(Level::Debug));
    assert!(!expected.expand_env);
    assert_eq!(expected.context.as_deref(), Some("c"));
    assert_eq!(refused("databases -context=").0, "option -context: expected a name, found nothing");
    assert_eq!(expected.command, Command::Databases { json: true });
}

#[test]
fn the_command_lines_of_the_guide_are_understood() {
    let Command::Replicate(replicate) = run("replicate /path/to/db nats://localhost:4222/BUCKETNAME").command else {
        panic!("no replicate")
    };
    let pair = replicate.pair.unwrap();
    assert_eq!((pair.database.as_str(), pair.replica.reveal()), ("/path/to/db", "nats://localhost:4222/BUCKETNAME"));
    let Command::Restore(restore) = run("restore -o my.db nats://localhost:4222/BUCKETNAME").command else {
        panic!("no restore")
    };
    assert_eq!(
        restore.source,
        RestoreSource::One(ReplicaRef::Replica(Secret::new("nats://localhost:4222/BUCKETNAME")))
    );
    assert_eq!(restore.output, Some(PathBuf::from("my.db")));
    assert_eq!((restore.target, restore.integrity_check), (RestoreTarget::Latest, None));
}

#[test]
fn every_option_of_replicate_arrives() {
    let Command::Replicate(all) =
        run("replicate -once -force-snapshot -enforce-retention -restore-if-db-not-exists -create-bucket -allow-other-database -takeover").command
    else {
        panic!("no replicate")
    };
    let expected = ReplicateOptions {
        pair: None,
        exec: None,
        once: true,
        force_snapshot: true,
        enforce_retention: true,
        restore_if_missing: true,
        create_bucket: true,
        allow_other_database: true,
        allow_unencrypted: false,
        takeover: true,
    };
    assert_eq!(all, expected);
    let argv = ["replicate", "-exec", "-x --config=1 'a b'"].map(str::to_string);
    let Ok(Parsed::Run(Invocation { command: Command::Replicate(exec), config: None, .. })) = parse(&argv) else {
        panic!("no replicate")
    };
    assert_eq!(exec.exec, Some(["-x", "--config=1", "a b"].map(str::to_string).to_vec()));
}

#[test]
fn every_option_of_restore_arrives() {
    let line = "restore db -timestamp 2026-11-23T06:08:12Z -generation 0123456789abcdef -if-db-not-exists \
                -if-replica-exists -dry-run -integrity-check quick -json";
    let Command::Restore(restore) = run(line).command else { panic!("no restore") };
    assert_eq!(restore.target, RestoreTarget::Time(Moment::parse("2026-11-23T06:08:12Z").unwrap()));
    assert_eq!(restore.generation, Some(Generation::new(0x0123_4567_89ab_cdef)));
    assert!(restore.if_db_not_exists && restore.if_replica_exists && restore.dry_run && restore.json);
    assert_eq!(restore.integrity_check, Some(IntegrityCheck::Quick));
    let Command::Restore(restore) = run("restore db -force -position 0123456789abcdef/1:20").command else {
        panic!("no restore")
    };
    assert!(restore.force && matches!(restore.target, RestoreTarget::Position(_)));
    let Command::Restore(restore) = run("restore db -f").command else { panic!("no restore") };
    assert_eq!(restore.follow, Some(DEFAULT_FOLLOW_INTERVAL));
    let Command::Restore(restore) = run("restore db -f -follow-interval 250ms").command else { panic!("no restore") };
    assert_eq!(restore.follow, Some(Duration::from_millis(250)));
}

#[test]
fn a_word_with_a_scheme_is_a_replica_and_any_other_a_database() {
    let table = [
        ("nats://h/b", false),
        ("tls://h/b", false),
        ("file:///b", false),
        ("s3://b", false),
        ("/a/b.db", true),
        ("b.db", true),
        ("sqlite:///b.db", true),
        ("sqlite3://b.db", true),
        ("a b://c", true),
    ];
    for (word, is_database) in table {
        let Ok(Parsed::Run(found)) = parse(&["wal".to_string(), word.to_string()]) else { panic!("{word}") };
        let Command::Wal(listing) = found.command else { panic!("{word}") };
        assert_eq!(matches!(listing.source, ReplicaRef::Database(_)), is_database, "{word}");
    }
}

#[test]
fn a_list_is_of_one_place_and_reads_no_configuration() {
    let Command::List(list) = run("list -max-age=90s -missing /etc/fleet nats://h/b").command else { panic!() };
    assert_eq!((list.url.reveal(), list.max_age), ("nats://h/b", Some(Duration::from_secs(90))));
    assert_eq!((list.expected, list.json), (Some(PathBuf::from("/etc/fleet")), false));
    for line in ["-config x list nats://h/b", "list", "list a b", "list -max-age 0s nats://h/b", "list -max-age 5 /b"] {
        let words: Vec<String> = line.split(' ').map(str::to_string).collect();
        assert_eq!(parse(&words).unwrap_err().kind(), Kind::Usage, "{line}");
    }
}

#[test]
fn what_is_chosen_is_all_one_or_a_pair() {
    let chosen = |line: &str| match run(line).command {
        Command::Snapshot(SnapshotOptions { selection: chosen, .. })
        | Command::Status(StatusOptions { target: StatusTarget::Compared(chosen), .. }) => chosen,
        other => panic!("{other:?}"),
    };
    assert_eq!(chosen("snapshot"), DatabaseSelection::Configured);
    assert_eq!(chosen("snapshot -config x a.db"), DatabaseSelection::Path("a.db".to_string()));
    assert_eq!(chosen("status a.db"), DatabaseSelection::Path("a.db".to_string()));
    let pair = DatabaseSelection::Explicit(DatabaseAndReplica {
        database: "a.db".to_string(),
        replica: Secret::new("/mnt/backup"),
    });
    assert_eq!(chosen("snapshot a.db /mnt/backup"), pair);
    let Command::Status(StatusOptions { target, .. }) = run("status nats://h/b/p").command else { panic!("no status") };
    assert_eq!(target, StatusTarget::Live(Secret::new("nats://h/b/p")));
    let proven = |line: &str| match run(line).command {
        Command::Verify(verify) => verify.target,
        other => panic!("{other:?}"),
    };
    assert_eq!(proven("verify"), VerifyTarget::All);
    assert_eq!(proven("verify a.db"), VerifyTarget::Database("a.db".to_string()));
    assert_eq!(proven("verify nats:///b"), VerifyTarget::Replica(Secret::new("nats:///b")));
    let pair = DatabaseAndReplica { database: "a.db".to_string(), replica: Secret::new("/mnt/backup") };
    assert_eq!(proven("verify a.db /mnt/backup"), VerifyTarget::Pair(pair));
    assert_eq!(run("-version").command, Command::Version { json: false });
    assert_eq!(run("version -json").command, Command::Version { json: true });
}

#[test]
fn a_wrong_word_is_answered_with_the_nearest_right_one() {
    let table = [
        ("databases -comfig x", "unknown option -comfig for databases", "did you mean -config?"),
        ("-comfig=x databases", "unknown option -comfig before the command", "did you mean -config?"),
        ("-o x restore", "unknown option -o before the command", "put it after the command: litestream restore -o"),
        ("wal -force x", "unknown option -force for wal", "it belongs to restore"),
        ("wal -qqqqq x", "unknown option -qqqqq for wal", "litestream wal -h lists the options"),
        ("-qqqqq", "unknown option -qqqqq before the command", "litestream -h lists the commands"),
        ("replicat", "unknown command \"replicat\"", "did you mean replicate?"),
        ("frobnicate", "unknown command \"frobnicate\"", "litestream -h lists the commands"),
        ("", "no command is given", "litestream -h lists the commands"),
        ("databases -config", "option -config needs a value: -config PATH", ""),
        ("databases -json=x", "option -json takes no value", ""),
        ("databases -json --json", "option -json is given twice", ""),
    ];
    for (line, what, hint) in table {
        assert_eq!(refused(line), (what.to_string(), hint.to_string()), "{line}");
    }
}

#[test]
fn words_of_the_peer_that_mean_nothing_here_say_what_to_use() {
    for command in ["ltx", "sync", "register", "unregister", "start", "stop", "info", "reset"] {
        let (what, hint) = refused(command);
        assert_eq!(what, format!("unknown command {command:?}"));
        assert_eq!(Some(hint.as_str()), foreign_words::replacement_for_command(command));
    }
    for option in ["txid", "index", "parallelism", "level", "socket", "timeout", "wait", "v", "verbose"] {
        let (what, hint) = refused(&format!("restore -{option} 1 db"));
        assert_eq!(what, format!("unknown option -{option} for restore"));
        assert_eq!(Some(hint.as_str()), foreign_words::replacement_for_option(option));
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let table = [
        ("replicate -once -exec x", "options -once and -exec exclude each other"),
        ("replicate -force-snapshot", "option -force-snapshot works only with -once"),
        ("replicate -enforce-retention", "option -enforce-retention works only with -once"),
        ("snapshot -retention 1d a.db /b", "option -retention works only with -enforce-retention"),
        ("replicate -exec 'x", "option -exec: split the command to run: a ' is not closed"),
        ("replicate a.db", "replicate: a database is given without its replica"),
        ("replicate nats://h/b a.db", "replicate: expected DB_PATH, found a replica URL"),
        ("replicate a.db nats://h/b nats://h/c", "replicate: expected at most 2 arguments, found 3"),
        ("replicate a.db nats://h/b -config x", "a replica URL and the option -config are both given"),
        ("restore nats://h/b -o a -config x", "a replica URL and the option -config are both given"),
        ("wal nats://h/b -config x", "a replica URL and the option -config are both given"),
        ("status nats://h/b -config x", "a replica URL and the option -config are both given"),
        ("status a.db nats://h/b -config x", "a replica URL and the option -config are both given"),
        ("restore nats://h/b", "restore: option -o is needed with a replica URL"),
        ("restore", "restore: no database is given"),
        ("restore a b", "restore: expected at most 1 arguments, found 2"),
        ("restore a -timestamp x -position y", "options -timestamp and -position exclude each other"),
        ("restore a -timestamp x -f", "options -timestamp and -f exclude each other"),
        ("restore a -position x -f", "options -position and -f exclude each other"),
        ("restore a -position x -generation y", "options -position and -generation exclude each other"),
        ("restore a -generation x -f", "options -generation and -f exclude each other"),
        ("restore a -dry-run -f", "options -dry-run and -f exclude each other"),
        ("restore a -f -promote", "options -f and -promote exclude each other"),
        ("restore a -promote -timestamp x", "options -timestamp and -promote exclude each other"),
        ("restore a -force -if-db-not-exists", "options -force and -if-db-not-exists exclude each other"),
        ("restore a -follow-interval 1s", "option -follow-interval works only with -f"),
        ("restore a -f -follow-interval 0", "option -follow-interval: expected more than 0, found 0"),
        ("restore a -f -follow-interval 1", "option -follow-interval: duration \"1\": expected a number with a unit"),
        ("restore a -integrity-check deep", "option -integrity-check: expected none, quick or full, found \"deep\""),
        ("-log-level loud version", "option -log-level: expected trace, debug, info, warn or error, found \"loud\""),
        ("wal a -generation x", "generation \"x\": expected 16 lower-case hex digits"),
        ("version x", "version: expected no argument, found 1"),
        ("databases x y", "databases: expected no argument, found 2"),
    ];
    for (line, what) in table {
        assert_eq!(refused(line).0, what, "{line}");
    }
    assert!(matches!(run("restore nats://h/b -dry-run").command, Command::Restore(_)));
}

#[test]
fn help_is_asked_for_in_every_way_and_fits_a_screen() {
    let overview = help("-h");
    for line in ["-help", "--help", "help", "--h", "-config x -h"] {
        assert_eq!(help(line), overview, "{line}");
    }
    assert!(overview.lines().count() <= 24, "{overview}");
    for (command, options) in option_names() {
        let text = help(&format!("{command} -h"));
        assert_eq!(text, help(&format!("help {command}")), "{command}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for option in options {
            assert!(text.contains(&format!("  -{option} ")), "{command} -{option}");
        }
    }
}

#[test]
fn a_password_in_a_url_is_never_shown() {
    for line in [
        "replicate a.db nats://u:canary@h/b x",
        "replicate nats://u:canary@h/b",
        "restore nats://u:canary@h/b nats://u:canary@h/b",
        "version nats://u:canary@h/b",
        "nats://u:canary@h/b",
        "restore nats://u:canary@h/b -config x -o y",
    ] {
        let (what, hint) = refused(line);
        assert!(!what.contains("canary") && !hint.contains("canary"), "{line}: {what}");
    }
    for line in ["replicate a.db nats://u:canary@h/b", "restore -o x nats://u:canary@h/b", "wal nats://canary@h/b"] {
        assert!(!format!("{:?}", run(line)).contains("canary"), "{line}");
    }
}

#[test]
fn a_moment_may_be_told_as_a_time_ago() {
    for line in ["restore db -timestamp -1h30m", "restore -timestamp=-1h30m db -strict", "restore --timestamp -90m db"]
    {
        let Command::Restore(restore) = run(line).command else { panic!("no restore") };
        assert_eq!(restore.target, RestoreTarget::Time(Moment::Ago(Duration::from_secs(5400))), "{line}");
        assert_eq!(restore.strict, line.contains("strict"));
    }
    for (line, message) in [
        ("restore db -timestamp -90", "option -timestamp: duration \"90\": expected a number with a unit"),
        ("restore db -timestamp -force", "option -timestamp: duration \"force\": expected numbers with units"),
        ("restore db -strict", "option -strict works only with -timestamp"),
    ] {
        assert!(refused(line).0.starts_with(message), "{:?}", refused(line));
    }
}
