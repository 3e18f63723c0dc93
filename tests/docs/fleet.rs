//! litestream-fleet(7) does what it says: its blocks are run in their order, as they stand there, on the machine of readme.rs.

use std::fs;

use crate::readme::{Block, Machine};
use crate::support;
use crate::support::nats::Scratch;

const PAGE: &str = include_str!("../../man/litestream-fleet.7");

/// The literal blocks of the page.
fn blocks() -> Vec<Block> {
    let (mut found, mut section, mut inside) = (Vec::<Block>::new(), "", false);
    for line in PAGE.lines() {
        section = line.strip_prefix(".Ss ").unwrap_or(section);
        match line {
            ".Bd -literal -offset indent" => found.push(Block { section, language: "sh", text: String::new() }),
            ".Ed" => {}
            _ if inside => found.last_mut().expect("a block").text.push_str(&format!("{line}\n")),
            _ => {}
        }
        inside = line.starts_with(".Bd ") || (inside && line != ".Ed");
    }
    found
}

/// `nats stream add NAME --config FILE` and `nats micro ls`, `info` and `stats` as the `nats` tool does them; it knows nothing
/// else. What the page says that `micro` shows must be in the answer.
const NATS: &str = r#"
import json, socket, sys
dash, url, *words = sys.argv[1:]
assert dash == "-s", sys.argv
def answer(subject, payload):
    host, port = url.removeprefix("nats://").split(":")
    link = socket.create_connection((host, int(port)), 30)
    link.sendall(f'CONNECT {{"verbose":false}}\r\nSUB answer 1\r\nPUB {subject} answer {len(payload)}\r\n{payload}\r\n'.encode())
    return next((json.loads(line) for line in link.makefile() if line.startswith("{")), None) or sys.exit("no answer")
if words[:2] == ["stream", "add"]:
    name, config, path = words[2:]
    assert config == "--config", words
    made = json.load(open(path))
    assert made["name"] == name
    given = answer(f"$JS.API.STREAM.CREATE.{name}", json.dumps(made))
    sys.exit(given["error"]["description"] if "error" in given else 0)
service, command, *rest = words
assert service == "micro", words
if command == "ls":
    assert rest == [], words
    found = answer("$SRV.INFO", "")
    print(*(found[field] for field in ("name", "version", "id", "description")))
elif command == "info":
    assert rest == ["litestream"], words
    found = answer("$SRV.INFO.litestream", "")
    shown = found["metadata"]
    database = next(name for name in shown if name.endswith("app.db"))
    print(shown["host"], shown["pid"], database, shown[database], *(end["subject"] for end in found["endpoints"]))
else:
    assert (command, rest) == ("stats", ["litestream", "--json"]), words
    found = answer("$SRV.STATS.litestream", "")
    (row,) = found["endpoints"][0]["data"]["rows"]
    print(*(end["num_requests"] for end in found["endpoints"]), row["database"], row["status"], row["position"])
assert found["name"] == "litestream", found
"#;

/// A file is saved under the name in the first line, without that line where it is JSON.
fn saves(machine: &Machine, block: &Block) {
    let (first, rest) = block.text.split_once('\n').expect("a line");
    let name = machine.translated(first.trim_start_matches("# "));
    let text = machine.translated(if name.ends_with(".json") { rest } else { &block.text });
    fs::write(machine.scratch.path().join(name), text).expect("write a file");
}

fn is_file(block: &Block) -> bool {
    block.text.starts_with("# ")
}

#[test]
fn every_block_of_the_fleet_page_does_what_it_says() {
    let mut machine = Machine::new(&["4222", "4223", "7422"]);
    let tool = machine.scratch.join("nats.py");
    fs::write(&tool, NATS).expect("write the tool");
    machine.installs("nats", &format!("exec python3 '{}' \"$@\"", tool.display()));
    let blocks = blocks();
    for block in &blocks {
        match is_file(block) {
            true if block.text.starts_with("# /etc/") => machine.saves(block),
            true => saves(&machine, block),
            false => machine.runs(block, None),
        }
    }
    assert!(blocks.len() > 15, "{}", blocks.len());
    let restored = |name: &str| support::equal(&var(&machine.scratch).join("lib/app.db"), &machine.scratch.join(name));
    for name in ["app.db", "app-from-copy.db", "fleet/pi7/app"] {
        restored(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn var(scratch: &Scratch) -> std::path::PathBuf {
    scratch.join("var")
}
