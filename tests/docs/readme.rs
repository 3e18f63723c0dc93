//! The README does what it says: its blocks are run in their order, as they stand there, and print what it shows.
//!
//! What is another here than on the reader's machine is put in on the way: ports that are free, a directory for /etc and
//! /var, and stand-ins for `make`, `systemctl` and `nats-server` where it is named without a configuration.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::support;
use crate::support::nats::{Scratch, free_port, pinned};
use crate::support::{litestream, until};

const README: &str = include_str!("../../README.md");

/// A fenced block, or a literal one of a manual page.
pub struct Block {
    pub section: &'static str,
    pub language: &'static str,
    pub text: String,
}

fn blocks() -> Vec<Block> {
    let (mut found, mut section, mut inside) = (Vec::<Block>::new(), "", false);
    for line in README.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(language), false) => found.push(Block { section, language, text: String::new() }),
            (None, true) => found.last_mut().expect("a block").text.push_str(&format!("{line}\n")),
            _ => section = line.strip_prefix("## ").unwrap_or(section),
        }
        inside ^= line.starts_with("```");
    }
    assert!(!inside, "a block does not end");
    found
}

/// The reader's machine.
pub struct Machine {
    pub scratch: Scratch,
    /// What stands in the README, and what is so here.
    here: Vec<(String, String)>,
    /// Process groups that go on in the background.
    running: Vec<Child>,
    /// What `replicate` in the foreground of a terminal follows.
    followed: Vec<Vec<String>>,
    count: usize,
}

/// Answers as `make` would, and changes nothing.
const MAKE: &str = "exec /usr/bin/env PATH=\"$REAL_PATH\" make -n -C \"$ROOT\" \"$@\" > /dev/null";

/// Without a configuration, the server of the walk; `Server is ready` is for the test.
const NATS_SERVER: &str = r#"case "$*" in
*-c*) exec "$NATS_SERVER" "$@" ;;
*) exec "$NATS_SERVER" -a 127.0.0.1 -p "$FIRST_PORT" -sd "$HERE/jetstream" "$@" ;;
esac"#;

/// What systemd would do with the unit: look whether it is right, and run its command.
const SYSTEMCTL: &str = r#"set -e
unit=$HERE/etc/systemd/system/litestream.service
case "$*" in
daemon-reload) test -e "$unit" ;;
"enable --now litestream")
    sed "s,/usr/bin/litestream,$HERE/bin/litestream," "$unit" > "$HERE/litestream.service"
    if command -v systemd-analyze > /dev/null; then systemd-analyze verify --man=no "$HERE/litestream.service"; fi
    $(sed -n 's/^ExecStart=//p' "$HERE/litestream.service") > "$HERE/service.log" 2>&1 & ;;
*) exit 1 ;;
esac"#;

impl Machine {
    /// `ports`: those that stand in the text.
    pub fn new(ports: &[&str]) -> Machine {
        let scratch = Scratch::new("readme");
        for directory in ["bin", "etc/cron.d", "etc/systemd/system", "var/lib"] {
            fs::create_dir_all(scratch.join(directory)).expect("make a directory");
        }
        let path = scratch.path().display().to_string();
        let mut here =
            vec![("/etc/".to_string(), format!("{path}/etc/")), ("/var/".to_string(), format!("{path}/var/"))];
        for port in ports {
            here.push((port.to_string(), free_port().to_string()));
        }
        let (clients, routes) = (free_decade(2001), free_decade(2601));
        here.extend([("522".to_string(), clients.to_string()), ("622".to_string(), routes.to_string())]);
        symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/man"), scratch.join("man")).expect("link the manual pages");
        let machine = Machine { scratch, here, running: Vec::new(), followed: Vec::new(), count: 0 };
        machine.installs("make", MAKE);
        machine.installs("nats-server", NATS_SERVER);
        machine.installs("systemctl", SYSTEMCTL);
        machine.installs("litestream", &format!("exec '{}' \"$@\"", litestream().get_program().display()));
        if !Command::new("sqlite3").arg("-version").output().is_ok_and(|output| output.status.success()) {
            let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/judge.py");
            machine.installs("sqlite3", &format!("exec python3 -B '{judge}' shell \"$@\""));
        }
        machine
    }

    pub fn installs(&self, name: &str, script: &str) {
        let path = self.scratch.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }

    /// The text of the README as it must be here.
    pub fn translated(&self, text: &str) -> String {
        self.here.iter().fold(text.to_string(), |text, (there, here)| replaced(&text, there, here))
    }

    /// What was printed here, as the README would show it: without what differs from run to run. A block is run faster than
    /// anybody types it: a restore may come before the line above it is stored, and then says so.
    fn shape(&self, printed: &str) -> Vec<String> {
        let home = self.scratch.path().display().to_string();
        let too_early =
            |line: &&str| line.contains("level=warn") && line.contains("before the moment that was asked for");
        let text: String = printed.split_inclusive('\n').filter(|line| !too_early(line)).collect();
        let text = text.replace(&format!("{home}/etc/"), "/etc/").replace(&format!("{home}/var/"), "/var/");
        masked(&text.replace(&home, "/home/me"))
    }

    fn command(&self, script: &str) -> Command {
        let real = std::env::var("PATH").unwrap_or_default();
        let home = self.scratch.path();
        let mut command = support::like(&litestream(), Command::new("sh"));
        command.arg("-ec").arg(script).current_dir(home).stdin(Stdio::null()).process_group(0);
        command.env("PATH", format!("{}:{real}", home.join("bin").display())).env("REAL_PATH", real);
        command.env("ROOT", env!("CARGO_MANIFEST_DIR")).env("HERE", home).env("NATS_SERVER", pinned());
        command.env("FIRST_PORT", self.translated("4222")).env("LITESTREAM_CONFIG", home.join("etc/litestream.yml"));
        command
    }

    /// Runs a block; compares what it prints with what is shown, if anything is.
    pub fn runs(&mut self, block: &Block, shown: Option<&str>) {
        self.settles();
        self.count += 1;
        let output = self.scratch.join(&format!("output-{}", self.count));
        let file = fs::File::create(&output).expect("create a file for the output");
        let script = self.translated(&block.text);
        let mut command = self.command(&script);
        command.stdout(file.try_clone().expect("the same file")).stderr(file);
        let mut child = command.spawn().expect("run a block");
        let printed = || fs::read_to_string(&output).unwrap_or_default();
        let expected = shown.map(masked);
        let matches = || match &expected {
            Some(expected) if self.shape(&printed()) != *expected => {
                Err(format!("{}\n--- expected the shape\n{}", self.shape(&printed()).join("\n"), expected.join("\n")))
            }
            _ => Ok(()),
        };
        let refused = shown.is_some_and(|text| text.contains("litestream: "));
        match lasting(&block.text).filter(|_| !refused) {
            Some(words) => {
                until("a command in the foreground shows what is expected", || match child.try_wait() {
                    Ok(None) => matches(),
                    ended => Err(format!("{ended:?}: {}", printed())),
                });
                if let Some(copy) = words.iter().find(|word| *word == "copy.db") {
                    until("the copy is there", || {
                        fs::metadata(self.scratch.join(copy)).map_err(|error| error.to_string())
                    });
                } else {
                    self.followed.push(words.iter().map(|word| self.translated(word)).collect());
                }
            }
            None => {
                let status = child.wait().expect("wait for a block");
                assert_eq!(status.success(), !refused, "{}: {status}\n{script}\n{}", block.section, printed());
                matches().unwrap_or_else(|error| panic!("{}:\n{script}\n{error}", block.section));
            }
        }
        self.running.push(child);
        if block.text.contains("systemctl enable") {
            self.followed.push(Vec::new());
        }
    }

    /// Waits until the servers are ready and what is followed is stored, as a reader does without noticing.
    pub fn settles(&self) {
        until("every server is ready", || {
            let logs: String = (1..=self.count)
                .filter_map(|n| fs::read_to_string(self.scratch.join(&format!("output-{n}"))).ok())
                .collect();
            let (begun, ready) =
                (logs.matches("Starting nats-server").count(), logs.matches("Server is ready").count());
            if begun == ready { Ok(()) } else { Err(logs) }
        });
        for words in &self.followed {
            until("what was written is stored", || {
                let output = self.command(&format!("litestream status {}", words.join(" "))).output().expect("status");
                let text = || String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                if output.status.success() { Ok(()) } else { Err(text()) }
            });
        }
    }

    /// A configuration is saved under the name in its first line, and the program must understand it.
    pub fn saves(&self, block: &Block) {
        let name = block.text.lines().next().and_then(|line| line.strip_prefix("# "));
        let name = name.unwrap_or_else(|| panic!("{}: a configuration says no name", block.section));
        let path = self.scratch.path().join(self.translated(name));
        fs::write(&path, self.translated(&block.text)).expect("write a configuration");
        let script = format!("BACKUP_PASSWORD=x litestream databases -config {}", path.display());
        let output = self.command(&script).output().expect("read a configuration");
        assert!(output.status.success(), "{}: {}", block.text, String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in &mut self.running {
            // A block's background processes are in its group.
            let _ =
                Command::new("kill").arg("-9").arg("--").arg(format!("-{}", child.id())).stderr(Stdio::null()).status();
            let _ = child.wait();
        }
    }
}

/// The first number N of some hundreds from `from` on for which the ports N1, N2 and N3 are free.
fn free_decade(from: u16) -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let begin = from + u16::try_from(std::process::id() % 500).expect("a small number");
    (begin..begin + 100).find(|n| (1..=3).all(|digit| free(n * 10 + digit))).expect("three free ports in a row")
}

/// `text` with `here` for each `there` that is not part of a longer number or path.
fn replaced(text: &str, there: &str, here: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(there) {
        let before = rest[..at].chars().next_back().or(result.chars().next_back());
        let whole = !before.is_some_and(|c| c.is_alphanumeric() || c == '/' && there.starts_with('/'));
        result.push_str(&rest[..at]);
        result.push_str(if whole { here } else { there });
        rest = &rest[at + there.len()..];
    }
    result + rest
}

/// Lines with `H` for hexadecimal numbers as positions have them, `#` for other numbers, and one space for many.
fn masked(text: &str) -> Vec<String> {
    let word = |word: &str| match word.len() {
        8 | 12 | 16 if word.bytes().all(|b| b.is_ascii_hexdigit()) => "H".to_string(),
        _ => {
            let mut out = String::new();
            for c in word.chars() {
                match c {
                    '0'..='9' if out.ends_with('#') => {}
                    '0'..='9' => out.push('#'),
                    other => out.push(other),
                }
            }
            out
        }
    };
    let line = |line: &str| {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        line.split_inclusive(|c: char| !c.is_alphanumeric())
            .map(|piece| match piece.char_indices().next_back() {
                Some((at, last)) if !last.is_alphanumeric() => word(&piece[..at]) + &piece[at..],
                _ => word(piece),
            })
            .collect()
    };
    text.lines().map(line).collect()
}

/// The words of a block's last command, if it goes on in the foreground until it is stopped.
fn lasting(text: &str) -> Option<Vec<String>> {
    let last = text.lines().last()?.split('#').next()?;
    let words: Vec<String> = last.split_whitespace().map(str::to_string).collect();
    let goes_on = match words.get(1)?.as_str() {
        "replicate" => !last.contains(" -once") && !last.contains(" -exec"),
        "restore" => last.contains(" -f "),
        _ => false,
    };
    let goes_on = goes_on && words.first()? == "litestream";
    goes_on.then(|| words.into_iter().skip(2).filter(|word| word != "-create-bucket").collect())
}

/// A crontab of the system: each command is silent, and right.
fn cron_runs(machine: &Machine) {
    let text = fs::read_to_string(machine.scratch.join("etc/cron.d/litestream")).expect("a crontab");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!(!lines.is_empty(), "{text}");
    for line in lines {
        let words: Vec<&str> = line.splitn(7, ' ').collect();
        assert_eq!((words.len(), words[5]), (7, "root"), "{line}");
        let output = machine.command(words[6]).output().expect("run a line of the crontab");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{line}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn every_block_does_what_the_readme_says() {
    let mut machine = Machine::new(&["4222", "4443"]);
    let blocks = blocks();
    let mut ran = 0;
    for (at, block) in blocks.iter().enumerate() {
        match block.language {
            "sh" => {
                let next = blocks.get(at + 1).filter(|next| next.language == "text" && next.section == block.section);
                // What a demo prints is another thing than what a block prints.
                let shown = next.filter(|_| !block.text.starts_with("make")).map(|next| next.text.as_str());
                machine.runs(block, shown);
                ran += 1;
            }
            "yaml" => machine.saves(block),
            "text" => {}
            other => panic!("a block in {other:?}: nothing runs it"),
        }
    }
    assert!(ran > 15, "{ran}");
    machine.settles();
    cron_runs(&machine);
}

#[test]
fn what_differs_from_run_to_run_is_masked_and_the_rest_is_not() {
    assert_eq!(masked("at  01a2074a6df63b7b/00000000:0000000010f8, 1.4 kB\nok"), ["at H/H:H, #.# kB", "ok"]);
    assert_eq!(masked("2026-11-23T07:24:10.023Z copy"), ["#-#-#T#:#:#.#Z copy"]);
    assert_eq!(replaced("522$n 15221 /etc/a b/etc/", "522", "201"), "201$n 15221 /etc/a b/etc/");
    assert_eq!(replaced("> /etc/a, b/etc/c", "/etc/", "/x/etc/"), "> /x/etc/a, b/etc/c");
}

/// The program's own words, or those of OpenSSL and the server that it looks for.
#[test]
fn troubleshooting_table_quotes_real_messages() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(top.join("README.md")).unwrap();
    let table = readme.split("## Troubleshooting").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let quoted: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split("` |").next()).collect();
    assert!(quoted.len() > 15, "{quoted:?}");
    let mut folders = vec![top.join("src")];
    let mut source = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => source += &fs::read_to_string(entry).unwrap(),
            }
        }
    }
    for words in quoted {
        let said = source.lines().filter(|line| line.contains('"')).any(|line| line.contains(words));
        assert!(said, "nothing says {words:?}");
    }
}
