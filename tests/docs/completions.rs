//! The completions do in each shell what its user sees. A shell that is not here is skipped, and that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use litestream::cli;

/// What `shell` prints for a script with these words after it; none where there is no such shell.
fn run(shell: &str, options: &[&str], script: &str, words: &[String]) -> Option<String> {
    if Command::new(shell).args(["-c", "exit 0"]).output().is_err() {
        println!("skipped: there is no {shell}");
        return None;
    }
    // A shell that waits for what never comes ends all the same.
    let output = Command::new("timeout").arg("60").arg(shell).args(options).arg(script).args(words).output();
    let output = output.expect("run a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shell}: {}{said}", String::from_utf8_lossy(&output.stdout));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

const GLOBAL: [&str; 6] = ["config", "log-level", "no-expand-env", "context", "replica", "help"];

/// For each command a line to be completed, and what may follow.
fn lines() -> Vec<(String, BTreeSet<String>)> {
    let mut lines = Vec::new();
    let known = cli::option_names();
    for (command, options) in known.iter().filter(|(command, _)| !command.is_empty()) {
        let options = options.iter().map(String::as_str).chain(GLOBAL).map(|name| format!("-{name}"));
        lines.push((format!("litestream {command} -"), options.collect()));
    }
    let commands =
        |begin: &str| known.iter().map(|(name, _)| name.clone()).filter(|name| name.starts_with(begin)).collect();
    lines.push(("litestream re".to_string(), commands("re")));
    lines.push(("litestream -config /x.yml s".to_string(), commands("s")));
    let words = |words: &str| words.split(' ').map(str::to_string).collect();
    lines.push(("litestream -log-level ".to_string(), words("trace debug info warn error")));
    lines.push(("litestream restore -integrity-check ".to_string(), words("none quick full")));
    lines
}

/// `answers` holds a line for each of [`lines`]: the words that the shell offers.
fn offers(shell: &str, answers: &str) {
    let lines = lines();
    assert_eq!(answers.lines().count(), lines.len(), "{shell}: {answers}");
    for ((line, expected), answer) in lines.into_iter().zip(answers.lines()) {
        let found: BTreeSet<String> = answer.split_whitespace().map(str::to_string).collect();
        assert_eq!(found, expected, "{shell}: {line}");
    }
}

fn typed() -> Vec<String> {
    lines().into_iter().map(|(line, _)| line).collect()
}

#[test]
fn bash_offers_what_may_follow() {
    let script = r#"source man/completions/litestream.bash
        for line; do
            read -ra COMP_WORDS <<< "$line"
            [[ $line == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
            _litestream
            echo "${COMPREPLY[*]}"
        done"#;
    let words = [vec!["bash".to_string()], typed()].concat();
    let Some(answers) = run("bash", &["--norc", "-c"], script, &words) else { return };
    offers("bash", &answers);
    let two = ["bash".to_string(), "litestream restore --dr".to_string()];
    assert_eq!(run("bash", &["--norc", "-c"], script, &two).unwrap(), "--dry-run\n");
}

#[test]
fn fish_offers_what_may_follow() {
    let script = r#"source man/completions/litestream.fish
        for line in $argv
            echo (complete -C"$line" | string replace -r "\t.*" "")
        end"#;
    let Some(answers) = run("fish", &["--no-config", "-c"], script, &typed()) else { return };
    offers("fish", &answers);
}

/// A widget completes what was typed and shows the line; the shell waits until that is the expected one, or is stopped.
#[test]
fn zsh_completes_what_is_typed() {
    let script = r##"zmodload zsh/zpty || exit 0
        zpty -b z zsh -f
        zpty -w z 'fpath=('$PWD'/man/completions $fpath); autoload -U compinit; compinit -u -D'
        zpty -w z 'shown() { zle expand-or-complete; print -r -- "<$BUFFER>"; zle kill-whole-line }'
        zpty -w z 'zle -N shown; bindkey "^T" shown; echo re""ady'
        zpty -r z out '*ready*'
        for typed expected; do
            print -r -- "$typed"
            zpty -n -w z "$typed"$'\x14'
            zpty -r z out "*<$expected>*" || exit 1
        done"##;
    let mut lines = Vec::new();
    for (command, _) in cli::option_names().iter().filter(|(command, _)| !command.is_empty()) {
        lines.extend([format!("litestream {command} -no"), format!("litestream {command} -no-expand-env ")]);
    }
    for (typed, rest) in [
        ("litestream resto", "re "),
        ("litestream restore -dr", "y-run "),
        ("litestream restore -integrity-check fu", "ll "),
        ("litestream -log-level tr", "ace "),
        ("litestream wal -g", "eneration "),
        ("litestream -config /x.yml stat", "us "),
    ] {
        lines.extend([typed.to_string(), format!("{typed}{rest}")]);
    }
    lines.insert(0, "zsh".to_string());
    run("zsh", &["-f", "-c"], script, &lines);
}

/// What is said of each option, or of each command, in a help text. The help does not tell of itself.
fn told_by_help(words: &[&str], of_options: bool) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_litestream")).args(words).arg("-h").output().expect("a help text");
    let text = String::from_utf8(output.stdout).expect("a help text");
    let rows = text.lines().filter_map(|line| line.strip_prefix("  ")?.split_once("  "));
    let rows = rows.map(|(name, told)| (name.split(' ').next().unwrap_or_default(), told.trim_start()));
    let rows = rows.filter(|(name, _)| name.starts_with('-') == of_options);
    let help = of_options.then_some(("-help", "print the usage"));
    rows.chain(help).map(|(name, told)| (name.to_string(), told.to_string())).collect()
}

/// Lines to be completed, and what must be told of each word that may follow.
fn told() -> Vec<(String, BTreeMap<String, String>)> {
    let known = cli::option_names();
    let commands = known.iter().map(|(command, _)| command.as_str()).filter(|command| !command.is_empty());
    let mut lines: Vec<_> =
        commands.map(|command| (format!("litestream {command} -"), told_by_help(&[command], true))).collect();
    lines.push(("litestream ".to_string(), told_by_help(&[], false)));
    lines.push(("litestream -".to_string(), told_by_help(&[], true)));
    lines
}

/// What a shell shows for each line: it stands after a mark, and `between` parts a word from what is told of it.
fn tells(shell: &str, answers: &str, between: &str) {
    let lines = told();
    let blocks: Vec<&str> = answers.split("== ").skip(1).collect();
    assert_eq!(blocks.len(), lines.len(), "{shell}: {answers}");
    for ((line, expected), block) in lines.iter().zip(blocks) {
        let rows = block.lines().filter_map(|row| row.split_once(between));
        let found: BTreeMap<String, String> =
            rows.map(|(word, told)| (word.trim().to_string(), told.trim().to_string())).collect();
        assert!(expected.len() > 1 && found == *expected, "{shell}: {line}\n{block}\nexpected: {expected:#?}");
    }
}

#[test]
fn fish_tells_of_each_word_what_the_help_does() {
    let script = r#"source man/completions/litestream.fish
        for line in $argv
            echo "== "
            complete -C"$line"
        end"#;
    let lines: Vec<String> = told().into_iter().map(|(line, _)| line).collect();
    let Some(answers) = run("fish", &["--no-config", "-c"], script, &lines) else { return };
    tells("fish", &answers, "\t");
}

/// The terminal is wide enough for each description, and too simple for marks among them.
#[test]
fn zsh_tells_of_each_word_what_the_help_does() {
    let script = r##"zmodload zsh/zpty || exit 0
        zpty -b z 'stty columns 200 rows 60; TERM=dumb zsh -f'
        zpty -w z 'fpath=('$PWD'/man/completions $fpath); autoload -U compinit; compinit -u -D; LISTMAX=1000'
        zpty -w z 'ended() { zle kill-whole-line; print -r -- "<en""ded>" }'
        zpty -w z 'zle -N ended; bindkey "^T" list-choices; bindkey "^X" ended; echo re""ady'
        zpty -r z out '*ready*'
        for line; do
            zpty -n -w z "$line"$'\x14\x18'
            zpty -r z out "*<ended>*" || exit 1
            print -r -- "== $out"
        done"##;
    let mut lines = vec!["zsh".to_string()];
    lines.extend(told().into_iter().map(|(line, _)| line));
    match run("zsh", &["-f", "-c"], script, &lines) {
        Some(answers) if !answers.is_empty() => tells("zsh", &answers, " -- "),
        _ => println!("skipped: there is no zsh with a terminal of its own"),
    }
}
