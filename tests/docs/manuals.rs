//! The manual pages and the program say the same: each option, key, default and exit status stands in both.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support;
use litestream::cli;
use litestream::config::units::{format_duration, size};
use litestream::config::{self, Config, Database, keys};
use litestream::error::Kind;
use litestream::store::StoreTarget;
use litestream::store::nats::options::NatsOptions;

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new("man").join(name)).unwrap()
}

/// What is between two lines, or to the end.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let behind = text.split_once(from).unwrap_or_else(|| panic!("{from} is missing")).1;
    behind.split_once(to).map_or(behind, |(inside, _)| inside)
}

/// The words after `.It <macro>` that are no punctuation or other macro's argument.
fn items(text: &str, macro_name: &str) -> BTreeSet<String> {
    let start = format!(".It {macro_name} ");
    let words = text.lines().filter_map(|line| line.strip_prefix(&start)).flat_map(|rest| {
        let end = rest.find(" Ar ").unwrap_or(rest.len());
        rest[..end].split([' ', ',']).map(str::to_string).collect::<Vec<_>>()
    });
    words.filter(|word| !word.is_empty() && word != "Fl" && word != "Ic").collect()
}

fn set(words: &[String]) -> BTreeSet<String> {
    words.iter().cloned().collect()
}

fn parse(text: &str) -> Config {
    support::config::parse(text, true).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn manual_lists_exactly_the_options_of_each_command() {
    let page = page("litestream.1");
    let commands = between(&page, ".Sh COMMANDS\n", ".Sh OUTPUT");
    for (command, options) in cli::option_names() {
        let (text, more) = match command.as_str() {
            "" => (between(&page, ".Sh DESCRIPTION\n", ".Sh COMMANDS"), vec!["h".to_string(), "help".to_string()]),
            name => (between(commands, &format!(".It Ic {name}"), "\n.It Ic "), Vec::new()),
        };
        let expected = set(&options).into_iter().chain(more).collect::<BTreeSet<_>>();
        assert_eq!(items(text, "Fl"), expected, "{command}");
    }
    let documented: Vec<&str> =
        commands.lines().filter_map(|line| line.strip_prefix(".It Ic ")?.split(' ').next()).collect();
    let known = cli::option_names();
    let known: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).filter(|name| !name.is_empty()).collect();
    assert_eq!(documented, known);
}

#[test]
fn manual_lists_exactly_the_keys_of_each_section() {
    let page = page("litestream.yml.5");
    let room = |room: &keys::SectionKeys| room.keys.iter().map(|key| key.to_string()).collect::<BTreeSet<_>>();
    let inside = |name: &str, keys: &keys::SectionKeys| {
        keys.keys.iter().map(|key| format!("{name}.{key}")).collect::<BTreeSet<_>>()
    };
    let mut global = room(&keys::GLOBAL);
    for (name, keys) in [
        ("logging", &keys::LOGGING),
        ("snapshot", &keys::SNAPSHOT),
        ("keep", &keys::KEEP),
        ("retention", &keys::RETENTION),
    ] {
        assert!(global.remove(name));
        global.extend(inside(name, keys));
    }
    let mut database = room(&keys::DATABASE);
    assert!(database.remove("snapshot") && database.remove("keep"));
    database.extend(inside("snapshot", &keys::SNAPSHOT));
    database.extend(inside("keep", &keys::KEEP));
    assert_eq!(items(between(&page, ".Ss The top level\n", ".Ss A database"), "Ic"), global);
    assert_eq!(items(between(&page, ".Ss A database\n", ".Ss A replica"), "Ic"), database);
    let mut replica = room(&keys::REPLICA);
    assert!(replica.remove("age"));
    replica.extend(inside("age", &keys::AGE));
    assert_eq!(items(between(&page, ".Ss A replica\n", ".Sh FILES"), "Ic"), replica);
}

#[test]
fn every_default_in_the_manual_is_the_one_that_is_used() {
    let page = page("litestream.yml.5");
    let default = |key: &str| -> String {
        let entry = between(&page, &format!("\n.It Ic {key}\n"), "\n.It Ic ");
        let text = between(entry, "Default: ", "\n");
        text.trim_end_matches('.').to_string()
    };
    let config = parse("dbs: [{path: /a.db, replica: {bucket: b}}]");
    let database: &Database = &config.dbs[0];
    let StoreTarget::Nats(options) = &database.replica.target else { panic!("{database:?}") };
    let options: &NatsOptions = options;
    let table = [
        ("snapshot.interval", format_duration(config.snapshot.interval.unwrap())),
        ("snapshot.retention", format_duration(config.snapshot.retention.unwrap())),
        ("heartbeat-interval", format_duration(config::DEFAULT_HEARTBEAT_INTERVAL)),
        ("shutdown-sync-timeout", format_duration(config.shutdown_sync_timeout)),
        ("monitor-interval", format_duration(database.monitor_interval)),
        ("checkpoint-interval", format_duration(database.checkpoint_interval.unwrap())),
        ("min-checkpoint-page-count", database.min_checkpoint_pages.to_string()),
        ("truncate-page-n", database.truncate_pages.unwrap().to_string()),
        ("busy-timeout", format_duration(database.busy_timeout)),
        ("compare-interval", format_duration(database.compare_interval.unwrap())),
        ("sync-interval", format_duration(database.replica.sync_interval)),
        ("max-reconnects", options.max_reconnects.map_or("-1".to_string(), |count| count.to_string())),
        ("reconnect-wait", format_duration(options.reconnect_wait)),
        ("reconnect-jitter", format_duration(options.reconnect_jitter)),
        ("timeout", format_duration(options.timeout)),
        ("ping-interval", format_duration(options.ping_interval)),
        ("max-pings-out", options.max_pings_out.to_string()),
        ("inbox-prefix", options.inbox_prefix.clone()),
        ("bucket-replicas", options.bucket_replicas.to_string()),
    ];
    for (key, expected) in table {
        assert_eq!(default(key), expected, "{key}");
    }
    assert_eq!(size(&default("spool-limit")).unwrap(), database.spool_limit);
}

#[test]
fn every_exit_status_of_an_error_stands_in_the_manual() {
    let page = page("litestream.1");
    let statuses = items(&between(&page, ".Sh EXIT STATUS\n", ".Sh EXAMPLES").replace(".It ", ".It X "), "X");
    for kind in [Kind::Usage, Kind::Database, Kind::StoreRefused, Kind::Corrupt, Kind::NothingToRestore, Kind::Locked] {
        assert!(statuses.contains(&kind.exit_status().to_string()), "{kind:?}");
    }
}

#[test]
fn the_command_lines_in_the_manual_are_understood() {
    let page = page("litestream.1");
    let examples = between(&page, ".Sh EXAMPLES\n", ".Sh SEE ALSO").replace("\\e\n", "");
    let mut found = 0;
    for line in examples.lines().filter_map(|line| Some(line.split_once("litestream ")?.1)) {
        let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        cli::parse(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
        found += 1;
    }
    assert_eq!(found, 4);
}

#[test]
fn the_files_in_the_manual_and_the_sample_are_right() {
    let page = page("litestream.yml.5");
    let blocks: Vec<&str> = page.split(".Bd -literal").skip(1).map(|block| between(block, "\n", ".Ed")).collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        parse(block);
    }
    let sample = self::page("litestream.yml");
    let config = parse(&sample);
    assert_eq!(config.dbs[0].replica.url, "nats://localhost:4222/backups/app.db");
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn what_the_sample_leaves_commented_out_is_known_too() {
    let sample = page("litestream.yml");
    let keys: BTreeSet<&str> = keys::SECTIONS.iter().flat_map(|room| room.keys.iter().copied()).collect();
    let mut found = 0;
    for line in sample.lines().filter_map(|line| line.trim().strip_prefix('#')) {
        let line = line.trim_start_matches([' ', '-']);
        let key = line.split_once(':').map(|(key, _)| key).filter(|key| !key.contains([' ', '/']));
        if let Some(key) = key {
            assert!(keys.contains(key), "{line}");
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn the_pages_are_clean_mdoc_where_mandoc_can_say_so() {
    let pages = [
        "litestream.1",
        "litestream-list.1",
        "litestream-replicate.1",
        "litestream-restore.1",
        "litestream-snapshot.1",
        "litestream-fleet.7",
    ];
    for name in pages.into_iter().chain(["litestream.yml.5"]) {
        let Ok(output) = Command::new("mandoc").args(["-Tlint", &format!("man/{name}")]).output() else { return };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        // What other pages are installed says nothing about ours.
        let about_us: Vec<&str> = told.lines().filter(|line| !line.contains("referenced manual not found")).collect();
        assert_eq!(about_us, [""; 0]);
    }
}

/// The options after these marks, each up to what cannot be in a name.
fn options_in(text: &str, marks: &[&str]) -> BTreeSet<String> {
    let name = |rest: &str| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().map(str::to_string);
    let found = marks.iter().flat_map(|mark| text.split(*mark).skip(1).filter_map(name));
    found.filter(|name| !name.is_empty()).collect()
}

#[test]
fn shells_complete_exactly_the_options_of_each_command() {
    let [bash, zsh, fish] = ["litestream.bash", "_litestream", "litestream.fish"];
    let [bash, zsh, fish] = [bash, zsh, fish].map(|name| page(&format!("completions/{name}")));
    for (command, options) in cli::option_names() {
        let expected = set(&options);
        if command.is_empty() {
            let with_help: BTreeSet<String> = expected.iter().cloned().chain(["help".to_string()]).collect();
            let line = between(&bash, "options=\" $options ", "\"\n");
            assert_eq!(options_in(&format!(" {line}"), &[" -"]), with_help, "bash");
            assert_eq!(options_in(between(&zsh, "global=(", "    )"), &["'-"]), with_help, "zsh");
            let lines = fish.lines().filter(|line| line.starts_with("complete -c litestream -o"));
            let lines = lines.collect::<Vec<_>>().join("\n");
            assert_eq!(options_in(&lines, &["litestream -o "]), with_help, "fish");
            continue;
        }
        let line = between(&bash, &format!("        {command}) options=\""), "\" ;;");
        assert_eq!(options_in(&format!(" {line}"), &[" -"]), expected, "bash {command}");
        let line = between(&zsh, &format!("        {command})\n"), ";;");
        assert_eq!(options_in(line, &["'-"]), expected, "zsh {command}");
        let condition = format!("'__fish_seen_subcommand_from {command}' ");
        let lines = fish.lines().filter(|line| line.contains(&condition)).collect::<Vec<_>>().join("\n");
        assert_eq!(options_in(&lines, &["' -o ", "' -s "]), expected, "fish {command}");
        assert!(fish.contains(&format!("__litestream_needs_command -f -a {command} ")), "fish {command}");
        assert!(zsh.contains(&format!("        '{command}:")), "zsh {command}");
    }
}

/// The text of every file below `folder` before its unit tests.
fn sources(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = entries.flat_map(|path| match path.is_dir() {
        true => sources(&path),
        false => vec![std::fs::read_to_string(path).unwrap()],
    });
    texts.map(|text| text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_string()).collect()
}

/// The messages that `text` logs, each with its level: none if its level is decided when it runs.
fn log_messages(text: &str) -> Vec<(Option<&'static str>, String)> {
    let mut found = Vec::new();
    for level in ["trace", "debug", "info", "warn", "error", "at"] {
        for (at, call) in text.match_indices(&format!("log::{level}")) {
            let rest = &text[at + call.len()..];
            if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let arguments = rest.strip_prefix('(').map(|rest| rest.strip_prefix("level,").unwrap_or(rest).trim_start());
            let message = arguments.and_then(|rest| rest.strip_prefix('"')?.split('"').next());
            let message = message.unwrap_or_else(|| panic!("a message that is not a literal: {:.60}", &text[at..]));
            found.push(((level != "at").then_some(level), message.to_string()));
        }
    }
    found
}

#[test]
fn the_manual_lists_every_log_message() {
    let page = page("litestream.1");
    let section = between(&page, ".Sh LOG\n", ".Sh SIGNALS\n");
    let listed = |level: &str| -> BTreeSet<String> {
        let part = between(section, &format!("Messages of the level\n.Cm {level} :\n"), ".El\n");
        part.lines().filter_map(|line| line.strip_prefix(".It Dq ")).map(str::to_string).collect()
    };
    let (mut any, mut logged) = (BTreeSet::new(), BTreeSet::new());
    for (level, message) in sources(Path::new("src")).iter().flat_map(|text| log_messages(text)) {
        match level {
            None => assert!(any.insert(message)),
            Some("trace" | "debug") => {}
            Some(level) => _ = logged.insert((level, message)),
        }
    }
    let mut found: BTreeSet<(&str, String)> = BTreeSet::new();
    for level in ["info", "warn", "error"] {
        found.extend(listed(level).into_iter().map(|message| (level, message)));
    }
    let missing: Vec<_> = logged.difference(&found).collect();
    assert!(missing.is_empty(), "not in the manual: {missing:?}");
    let rest: BTreeSet<String> = found.difference(&logged).map(|(_, message)| message.clone()).collect();
    assert_eq!(rest, any, "in the manual, but not logged at that level");
    assert!(found.len() > 50, "{}", found.len());
}

#[test]
fn the_manual_lists_every_log_key() {
    let page = page("litestream.1");
    let section = between(&page, ".Sh LOG\n", ".Sh SIGNALS\n");
    let listed: BTreeSet<&str> = section.lines().filter_map(|line| line.strip_prefix(".It Cm ")).collect();
    let texts = sources(Path::new("src"));
    let used = texts.iter().flat_map(|text| text.split(".field(\"").skip(1)).filter_map(|rest| rest.split('"').next());
    let used: BTreeSet<&str> = used.chain(["time", "level", "msg"]).collect();
    assert_eq!(listed, used);
}

/// The texts of a `match` over reasons for a new generation, each up to what is filled in.
fn reasons(file: &str, marks: &[&str]) -> BTreeSet<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default().replace("(\n                ", "(");
    let found = marks.iter().flat_map(|mark| code.split(mark).skip(1).filter_map(|rest| rest.split('"').next()));
    found.map(|text| text.split(['{', ':']).next().unwrap_or_default().trim().to_string()).collect()
}

#[test]
fn the_manual_lists_each_reason_of_a_new_generation() {
    let page = page("litestream.1");
    let section = between(&page, ".Sh LOG\n", ".Sh SIGNALS\n");
    let list = between(section, ".Dq new generation\nsays why", ".El\n");
    let listed: Vec<&str> = list.lines().filter_map(|line| line.strip_prefix(".It Ql ")).collect();
    let mut used = reasons("src/source/resume.rs", &["f.write_str(\"", "write!(f, \""]);
    used.extend(reasons("src/source/identity.rs", &["Some(\"", "then_some(\""]));
    used.extend(reasons("src/source/replacement.rs", &["Replaced(\""]));
    let unlisted: Vec<_> =
        used.iter().filter(|reason| !listed.iter().any(|item| item.starts_with(reason.as_str()))).collect();
    assert!(unlisted.is_empty(), "not in the manual: {unlisted:?}");
    assert_eq!(listed.len(), used.len(), "{listed:?}\n{used:?}");
    assert!(used.len() > 20, "{used:?}");
}

#[test]
fn a_log_message_is_found_in_the_source() {
    let text = "log::info(\n    \"one\").emit(); crate::log::warn(\"two\"); log::at(level, \"three\"); log::warning(x)";
    let expected = [(Some("info"), "one"), (Some("warn"), "two"), (None, "three")];
    assert_eq!(log_messages(text), expected.map(|(level, message)| (level, message.to_string())));
}

#[test]
#[should_panic = "not a literal"]
fn a_log_message_that_is_not_a_literal_is_refused() {
    log_messages("let line = if new { log::warn } else { log::debug };");
}

#[test]
fn the_init_scripts_are_clean_shell() {
    for name in ["litestream.openrc", "litestream.procd"] {
        assert!(Command::new("sh").args(["-n", &format!("man/{name}")]).status().unwrap().success(), "{name}");
    }
    assert!(Command::new("bash").args(["-n", "man/completions/litestream.bash"]).status().unwrap().success());
}

#[test]
fn the_alert_rules_name_metrics_that_are_written() {
    let rules = page("litestream.rules.yml");
    let metrics = std::fs::read_to_string("src/cmd/metrics.rs").unwrap();
    let names = options_in(&rules.replace('_', "-"), &["litestream-"]);
    assert!(names.len() > 4, "{names:?}");
    for name in names.iter().map(|name| name.replace('-', "_")) {
        assert!(
            metrics.contains(&format!("\"{name}\"")) || metrics.contains(&format!("\"litestream_{name}\"")),
            "{name}"
        );
    }
}
