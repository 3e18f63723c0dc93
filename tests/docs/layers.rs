//! The layers hold: every module uses only lower layers, every dependency stays with its owner, the clock is read in
//! one place, and every module says at its top what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Lowest first. Modules of one layer never see each other.
const LAYERS: [&[&str]; 11] = [
    &["error", "printable", "host", "random"],
    &["log", "clock", "fault", "secret", "http", "directory", "settled", "interrupt", "wakeup"],
    &["format", "age"],
    &["source", "store", "control"],
    &["backup"],
    &["replica", "restore"],
    &["thinning"],
    &["config"],
    &["cli"],
    &["cmd"],
    &["main", "lib"],
];

/// What a module may borrow from a higher layer: the name of a moment.
const LOANS: [(&str, &str); 2] = [("log", "format::time"), ("clock", "format::time")];

/// Each dependency, and the modules that may use it. Test code may use any.
const OWNERS: [(&str, &[&str]); 17] = [
    ("argh", &["cli"]),
    ("crc32fast", &["format"]),
    ("data_encoding", &["age", "store::nats"]),
    ("flate2", &["format"]),
    ("zlib_rs", &["format"]),
    ("libc", &["fault", "directory", "host", "source", "store", "restore", "cmd"]),
    ("native_tls", &["store::nats", "http"]),
    ("nats", &["store::nats"]),
    ("nkeys", &["store::nats"]),
    ("openssl", &["store::nats", "age"]),
    ("ring", &["store", "random", "age"]),
    ("rusqlite", &["source"]),
    ("serde", &["config", "store::nats", "cmd"]),
    ("serde_json", &["store::nats", "cmd", "config::nats_context"]),
    ("serde_yaml", &["config"]),
    ("zeroize", &["age", "config::age_keys", "store::encrypted"]),
    ("unsafe", &["fault", "directory", "host", "source", "store", "restore", "cmd"]),
];

/// What reads a clock or sleeps, and where that is allowed. Test code may. Waiting for the store is the store's own
/// work: so are the chores that it does there, the round trip that it measures, and the age of what a dead run left.
/// A request keeps its own deadline.
const CLOCKS: [(&str, &[&str]); 4] = [
    ("Instant::now", &["cmd", "store::nats", "http"]),
    ("SystemTime::now", &["cmd", "log"]),
    ("thread::sleep", &["cmd", "store"]),
    (".elapsed", &["cmd", "store"]),
];

/// What has no place in `format`, whose every surprise is a row in a unit test.
const IMPURE: [&str; 5] = ["std::fs", "std::net", "std::env", "std::process", "std::thread"];

/// main.rs has nothing but argv in and exit status out.
const MAIN_LINES: usize = 60;

/// A source file.
pub struct File {
    /// Such as `store::nats::options`; `main` and `lib` for the roots.
    pub module: String,
    pub text: String,
    /// Compiled for tests only.
    pub test: bool,
}

/// A name in a file, from its root: `crate::…`, a dependency, or a module in scope.
struct Named {
    path: String,
    test: bool,
}

#[test]
fn modules_use_lower_layers_and_dependencies_have_one_owner() {
    let files = source_files();
    let faults: Vec<String> = files.iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_dependency_has_an_owner() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[dependencies]\n").unwrap();
    let section = rest.split("\n[").next().unwrap();
    let names = section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    for (name, _) in names {
        let name = name.replace('-', "_");
        assert!(OWNERS.iter().any(|(owned, _)| *owned == name), "{name}: name its owner in tests/docs/layers.rs");
    }
}

#[test]
fn a_forged_violation_is_caught() {
    let table = [
        ("format::wal", "use crate::store::Store;", "format::wal uses crate::store::Store"),
        ("store::dir", "use crate::{error::Error, source::Pin};", "store::dir uses crate::source::Pin"),
        ("store::dir", "use super::super::source::Pin;", "store::dir uses crate::source::Pin"),
        ("source", "fn f() { crate::store::open() }", "source uses crate::store::open"),
        ("error", "use crate::log;", "error uses crate::log"),
        ("log", "use crate::format::wal::Frame;", "log uses crate::format::wal::Frame"),
        ("config", "use crate::cli;", "config uses crate::cli"),
        ("attic", "use crate::error::Error;", "attic is on no layer"),
        ("store::dir", "use nats::Connection;", "store::dir uses nats"),
        ("replica", "fn f() { ::rusqlite::open() }", "replica uses rusqlite"),
        ("replica", "use {std::fs, ring::digest};", "replica uses ring"),
        ("format::wal", "fn f() { unsafe { g() } }", "format::wal uses unsafe"),
        ("replica", "fn f() { let t = Instant::now(); }", "replica calls Instant::now"),
        ("source", "fn f() { std::thread::sleep(d) }", "source calls thread::sleep"),
        ("source", "fn f() { t.elapsed() }", "source calls .elapsed"),
        ("format::key", "use std::fs::File;", "format::key uses std::fs::File"),
    ];
    for (module, code, expected) in table {
        let found = faults(&forged(module, &format!("//! A module.\n{code}")));
        assert!(found.iter().any(|fault| fault.starts_with(expected)), "{module}: {code}: {found:?}");
    }
    assert_eq!(faults(&forged("source", "use std::fs;")), ["source does not begin with its doc (//!)"]);
    let long = format!("//! Main.\n{}", "\n".repeat(MAIN_LINES));
    assert_eq!(faults(&forged("main", &long)), ["main has 61 lines, at most 60 are allowed"]);
}

#[test]
fn what_is_allowed_is_not_called_a_violation() {
    let table = [
        ("log", "use crate::format::time::Timestamp;"),
        ("store", "pub mod nats; pub struct Target(nats::options::Options);"),
        ("config", "use crate::store::nats; fn f(o: nats::options::Options) {}"),
        ("config", "use crate::store::{self, nats::options::Options};"),
        ("store::nats::object", "use super::link::Link; use ::nats::Message; fn f() { ring::digest::SHA256 }"),
        (
            "format::wal",
            "// crate::store is named in a comment only\nconst A: &str = \"crate::store\"; const B: char = '\"';",
        ),
        ("format::wal", "#[cfg(test)]\nmod tests { use super::*; fn f() { rusqlite::open(); std::thread::sleep(d) } }"),
        ("main", "use litestream::cmd;"),
    ];
    for (module, code) in table {
        assert_eq!(faults(&forged(module, &format!("//! A module.\n{code}"))), [""; 0], "{module}: {code}");
    }
}

pub fn forged(module: &str, text: &str) -> File {
    File { module: module.to_string(), text: text.to_string(), test: false }
}

/// All that is wrong with a file.
fn faults(file: &File) -> Vec<String> {
    let module = &file.module;
    let mut faults = Vec::new();
    // A file of tests is told by the module that declares it.
    if !file.test && !file.text.starts_with("//!") {
        faults.push(format!("{module} does not begin with its doc (//!)"));
    }
    let lines = file.text.lines().count();
    if module == "main" && lines > MAIN_LINES {
        faults.push(format!("main has {lines} lines, at most {MAIN_LINES} are allowed"));
    }
    if layer(top_module(module)).is_none() {
        faults.push(format!("{module} is on no layer"));
        return faults;
    }
    let tokens = tokens(&file.text);
    for named in names(module, &tokens) {
        let test = file.test || named.test;
        faults.extend(misplaced(module, &named.path));
        faults.extend(if test { None } else { trespass(module, &named.path) });
    }
    faults
}

/// A name of a module that is not on a lower layer.
fn misplaced(module: &str, path: &str) -> Option<String> {
    let (own, inner) = (top_module(module), path.strip_prefix("crate::")?);
    let target = top_module(inner);
    let allowed = own == target
        || layer(target)? < layer(own)?
        || LOANS.iter().any(|(who, what)| own == *who && inner.starts_with(what));
    (!allowed).then(|| format!("{module} uses {path}, which is not on a lower layer"))
}

/// A dependency outside its owner, a clock read outside `cmd`, something impure in `format`.
fn trespass(module: &str, path: &str) -> Option<String> {
    let within = |modules: &[&str]| modules.iter().any(|owner| module.starts_with(owner));
    let dependency = OWNERS.iter().find(|(name, modules)| top_module(path) == *name && !within(modules));
    if let Some((name, modules)) = dependency {
        return Some(format!("{module} uses {name}, which belongs to {}", modules.join(", ")));
    }
    let clock = CLOCKS.iter().find(|(name, modules)| path.ends_with(name) && !within(modules));
    if let Some((name, _)) = clock {
        return Some(format!("{module} calls {name}; take the time as an argument"));
    }
    let impure = top_module(module) == "format" && IMPURE.iter().any(|name| path.starts_with(name));
    impure.then(|| format!("{module} uses {path}, but format is pure"))
}

fn top_module(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Every path in the code, from its root. A name that the file itself imports or declares is no dependency's.
fn names(module: &str, tokens: &[Token]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut local = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let test = tokens[at].test;
        match tokens[at].text.as_str() {
            "use" => {
                let mut paths = Vec::new();
                at = use_tree(tokens, at + 1, "", &mut paths);
                for path in paths {
                    let path = absolute(module, &path);
                    if path.starts_with("crate::") {
                        local.extend(path.rsplit("::").next().map(str::to_string));
                    }
                    found.push(Named { path, test });
                }
            }
            "mod" => {
                local.extend(tokens.get(at + 1).map(|token| token.text.clone()));
                at += 1;
            }
            "unsafe" => {
                found.push(Named { path: "unsafe".to_string(), test });
                at += 1;
            }
            "." => {
                let method = tokens.get(at + 1).map_or("", |token| &token.text);
                found.push(Named { path: format!(".{method}"), test });
                at += 2;
            }
            _ => {
                let (path, next) = plain_path(tokens, at);
                if path.contains("::") {
                    found.push(Named { path: absolute(module, &path), test });
                }
                at = next;
            }
        }
    }
    found.retain(|named| !local.contains(top_module(&named.path)) || named.path.starts_with("::"));
    for named in &mut found {
        named.path = named.path.trim_start_matches("::").to_string();
    }
    found
}

/// The path that begins at a token, and where the next one may begin. A leading `::` stays, to tell a dependency from
/// a module of the same name.
pub fn plain_path(tokens: &[Token], mut at: usize) -> (String, usize) {
    let mut path = String::new();
    while let Some(token) = tokens.get(at) {
        let joined = path.is_empty() || path.ends_with("::");
        match token.text.as_str() {
            "::" if path.is_empty() || !joined => path.push_str("::"),
            word if joined && is_word(word) => path.push_str(word),
            _ => break,
        }
        at += 1;
    }
    (path.clone(), if path.is_empty() { at + 1 } else { at })
}

/// The paths of a `use` tree, and the token after it.
pub fn use_tree(tokens: &[Token], mut at: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    let (path, next) = plain_path(tokens, at);
    let word = if path.is_empty() { at } else { next };
    at = word;
    match tokens.get(at).map_or("", |token| &token.text) {
        "{" => {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text != "}") {
                at = use_tree(tokens, at, &format!("{prefix}{path}"), found);
                at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
            }
            at + 1
        }
        "*" => {
            found.push(format!("{prefix}{path}*"));
            at + 1
        }
        "as" => {
            found.push(format!("{prefix}{path}"));
            at + 2
        }
        _ => {
            found.push(format!("{prefix}{path}").trim_end_matches("::self").to_string());
            at + usize::from(path.is_empty())
        }
    }
}

/// `super::`, `self::` and the library's own name, read from where they stand.
pub fn absolute(module: &str, path: &str) -> String {
    let mut above: Vec<&str> = module.split("::").collect();
    let mut rest = path.strip_prefix("self::").unwrap_or(path);
    if let Some(inner) = rest.strip_prefix("litestream::") {
        return format!("crate::{inner}");
    }
    if !rest.starts_with("super::") {
        return rest.to_string();
    }
    while let Some(inner) = rest.strip_prefix("super::") {
        above.pop();
        rest = inner;
    }
    // A test module stands one deeper than its file, so that one `super` too many may be counted here: it then names
    // the crate's root, where only a module can be meant.
    let inner = above.iter().chain([&rest]).copied().collect::<Vec<_>>().join("::");
    format!("crate::{inner}")
}

/// A word or a mark of the code, without comments and literals.
pub struct Token {
    pub text: String,
    /// Inside an item under `#[cfg(test)]`.
    pub test: bool,
}

pub fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

pub fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = literal_or_comment(rest).unwrap_or_else(|| {
            let length = match first {
                c if is_word(&c.to_string()) => {
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
                }
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            if !first.is_whitespace() {
                tokens.push(Token { text: rest[..length].to_string(), test: false });
            }
            length
        });
        rest = &rest[length..];
    }
    mark_tests(&mut tokens);
    tokens
}

/// The length of a comment, string or character at the beginning of the code.
fn literal_or_comment(code: &str) -> Option<usize> {
    let until = |end: &str, from: usize| code[from..].find(end).map_or(code.len(), |at| from + at + end.len());
    if code.starts_with("//") {
        return Some(until("\n", 2));
    }
    if code.starts_with("/*") {
        return Some(until("*/", 2));
    }
    let raw = code.trim_start_matches(['b', 'r', 'c']);
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if code.len() - raw.len() <= 2 && code[..code.len() - raw.len()].ends_with('r') && raw[hashes..].starts_with('"') {
        return Some(until(&format!("\"{}", "#".repeat(hashes)), code.len() - raw.len() + hashes + 1));
    }
    if code.starts_with('"') || code.starts_with("b\"") {
        return Some(escaped(code, '"', code.find('"')? + 1));
    }
    let letter = code.strip_prefix('\'')?;
    let character = letter.starts_with('\\') || letter.chars().nth(1) == Some('\'');
    character.then(|| escaped(code, '\'', 1))
}

/// The length up to the closing quote.
fn escaped(code: &str, quote: char, from: usize) -> usize {
    let mut skip = false;
    for (at, c) in code[from..].char_indices() {
        match c {
            _ if skip => skip = false,
            '\\' => skip = true,
            c if c == quote => return from + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Marks the items under `#[cfg(test)]`, from the attribute to the closing brace.
fn mark_tests(tokens: &mut [Token]) {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let starts = (0..tokens.len()).filter(|at| spells(&tokens[*at..], &attribute)).collect::<Vec<_>>();
    for start in starts {
        let mut depth = 0;
        for token in &mut tokens[start + attribute.len()..] {
            token.test = true;
            depth += i32::from(token.text == "{") - i32::from(token.text == "}");
            if depth == 0 && (token.text == "}" || token.text == ";") {
                break;
            }
        }
    }
}

fn spells(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.text == *word)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below src. One that its parent declares under `#[cfg(test)]` is test code.
pub fn source_files() -> Vec<File> {
    let mut files = BTreeMap::new();
    read_folder(&root().join("src"), "", &mut files);
    assert!(files.contains_key("main") && files.contains_key("lib"), "src is not where it was");
    let mut tests = BTreeSet::new();
    for (module, text) in &files {
        let tokens = tokens(text);
        let declared = tokens.windows(3).filter(|w| w[0].test && w[0].text == "mod" && w[2].text == ";");
        let inside = if module == "lib" { String::new() } else { format!("{module}::") };
        tests.extend(declared.map(|w| format!("{inside}{}", w[1].text)));
        let folder = module.rsplit_once("::").map_or(String::new(), |(folder, _)| format!("{folder}::"));
        let beside = text.split("#[cfg(test)]\n#[path = \"").skip(1).filter_map(|rest| rest.split(".rs\"").next());
        tests.extend(beside.map(|stem| format!("{folder}{stem}")));
    }
    let test = |module: &str| tests.iter().any(|name| module == name || module.starts_with(&format!("{name}::")));
    files.into_iter().map(|(module, text)| File { test: test(&module), module, text }).collect()
}

fn read_folder(folder: &Path, module: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let name = match (module, stem.as_str()) {
            (folder, "mod") => folder.to_string(),
            ("", stem) => stem.to_string(),
            (folder, stem) => format!("{folder}::{stem}"),
        };
        if path.is_dir() {
            read_folder(&path, &name, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}
