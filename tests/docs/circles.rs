//! No circles: files of the program never use each other in a circle, so that each can be read when those below it are known.
//!
//! A folder's mod.rs and the files in the folder are one room: a trait stands there, and its implementations here. What they
//! use of each other is not counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::layers::{File, Token, absolute, forged, is_word, plain_path, source_files, tokens, use_tree};

/// Who uses whom. Re-exports are looked through: anyone who names `crate::source::Lock` uses `source::lock`.
struct Uses<'a> {
    modules: BTreeSet<&'a str>,
    /// `source::Lock`, and what that is.
    exports: BTreeMap<String, String>,
}

/// A path in a file, whether it is re-exported, and whether it stands in a test.
struct Named {
    path: String,
    exported: bool,
    test: bool,
}

#[test]
fn no_file_uses_another_in_a_circle() {
    let circles = circles(&source_files());
    assert!(circles.is_empty(), "\n{}\n", circles.join("\n"));
}

#[test]
fn a_forged_circle_is_caught() {
    let table: [&[(&str, &str)]; 4] = [
        &[("format::a", "use crate::format::b::B;"), ("format::b", "fn f() { crate::format::a::g() }")],
        &[("format::a", "use super::b::B;"), ("format::b", "use super::c::C;"), ("format::c", "use super::a;")],
        &[("a", "mod inner; use crate::b::B;"), ("a::inner", "fn f() {}"), ("b", "fn f() { crate::a::g() }")],
        // Through what a third one exports.
        &[
            ("store", "mod a; mod b; pub use {b::B};"),
            ("store::a", "use crate::store::B;"),
            ("store::b", "use super::a::A;"),
        ],
    ];
    for files in table {
        let files: Vec<File> = files.iter().map(|(module, code)| forged(module, code)).collect();
        let found = circles(&files);
        assert_eq!(found.len(), 1, "{:?}: {found:?}", files.iter().map(|file| &file.module).collect::<Vec<_>>());
        assert!(files.iter().filter(|file| found[0].contains(&file.module)).count() > 1, "{found:?}");
    }
}

#[test]
fn what_is_no_circle_is_not_called_one() {
    let table: [&[(&str, &str)]; 4] = [
        &[("format::a", "use crate::format::b::B;"), ("format::b", "#[cfg(test)]\nmod tests { use super::super::a; }")],
        &[("store", "mod dir; pub use dir::Dir;"), ("store::dir", "use crate::store::Dir; use super::put::Put;")],
        &[("store", "pub mod dir; fn f() { dir::open() }"), ("store::dir", "use super::Store;")],
        &[("store", "mod a; mod b; pub use {a::A, b::B};"), ("store::a", "use crate::store::B;"), ("store::b", "")],
    ];
    for files in table {
        let files: Vec<File> = files.iter().map(|(module, code)| forged(module, code)).collect();
        assert_eq!(circles(&files), [""; 0]);
    }
}

/// The files of each circle, and what ties them.
fn circles(files: &[File]) -> Vec<String> {
    let program: Vec<&File> = files.iter().filter(|file| !file.test).collect();
    let named: Vec<Vec<Named>> = program.iter().map(|file| named(&file.module, &tokens(&file.text))).collect();
    let mut uses =
        Uses { modules: program.iter().map(|file| file.module.as_str()).collect(), exports: BTreeMap::new() };
    for (file, named) in program.iter().zip(&named) {
        for name in named.iter().filter(|name| name.exported) {
            let last = name.path.rsplit("::").next().unwrap_or_default();
            let target = uses.whole(&file.module, &name.path);
            uses.exports.insert(format!("{}::{last}", file.module), target);
        }
    }
    let mut arrows: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for (file, named) in program.iter().zip(&named) {
        for name in named.iter().filter(|name| !name.exported && !name.test) {
            let target = uses.module_of(&uses.whole(&file.module, &name.path));
            if let Some(target) = target.filter(|target| !is_one_room(&file.module, target)) {
                arrows.entry(&file.module).or_default().insert(target, name.path.clone());
            }
        }
    }
    tied(&arrows)
}

/// A file and itself, or the mod.rs of a folder that it stands in.
fn is_one_room(one: &str, other: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    within(one, other) || within(other, one)
}

impl<'a> Uses<'a> {
    /// The path from the crate's root, without `crate::`. One that begins with a child of the file is the child's.
    fn whole(&self, module: &str, path: &str) -> String {
        let first = path.split("::").next().unwrap_or_default();
        match path.strip_prefix("crate::") {
            Some(inner) => inner.to_string(),
            None if self.modules.contains(format!("{module}::{first}").as_str()) => format!("{module}::{path}"),
            None => format!("::{path}"),
        }
    }

    /// The file that a path leads to.
    fn module_of(&self, path: &str) -> Option<&'a str> {
        let mut path = path.to_string();
        for _ in 0..self.exports.len() {
            let Some((name, rest)) = self.exported(&path) else { break };
            path = format!("{}{rest}", self.exports[name]);
        }
        let mut prefix = path.as_str();
        loop {
            if let Some(module) = self.modules.get(prefix) {
                return Some(module);
            }
            prefix = prefix.rsplit_once("::")?.0;
        }
    }

    /// The beginning of a path that is an export and leads elsewhere, and what follows it.
    fn exported<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]);
        let mut parts = ends.map(|end| path.split_at(end));
        parts.find(|(name, _)| self.exports.get(*name).is_some_and(|target| target != name))
    }
}

/// Each group of files of which every one leads to every other, with the arrows inside it.
fn tied(arrows: &BTreeMap<&str, BTreeMap<&str, String>>) -> Vec<String> {
    let reached = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            open.extend(arrows.get(module).into_iter().flat_map(BTreeMap::keys).filter(|to| seen.insert(**to)));
        }
        seen.into_iter().map(str::to_string).collect::<BTreeSet<String>>()
    };
    let reached: BTreeMap<&str, BTreeSet<String>> = arrows.keys().map(|from| (*from, reached(from))).collect();
    let leads = |from: &str, to: &str| reached.get(from).is_some_and(|reached| reached.contains(to));
    let mut groups: Vec<Vec<&str>> = Vec::new();
    for module in reached.keys().filter(|module| leads(module, module)) {
        match groups.iter_mut().find(|group| leads(group[0], module) && leads(module, group[0])) {
            Some(group) => group.push(module),
            None => groups.push(vec![module]),
        }
    }
    let inside = |group: &Vec<&str>| {
        let pairs = group.iter().flat_map(|from| arrows[from].iter().map(move |(to, name)| (*from, *to, name)));
        let ties =
            pairs.filter(|(_, to, _)| group.contains(to)).map(|(from, to, name)| format!("  {from} -> {to}: {name}"));
        format!("a circle of {}:\n{}", group.join(", "), ties.collect::<Vec<_>>().join("\n"))
    };
    groups.iter().map(inside).collect()
}

/// Every path in the code.
fn named(module: &str, tokens: &[Token]) -> Vec<Named> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let test = tokens[at].test;
        let mut paths = Vec::new();
        let exported = tokens[at].text == "use" && at > 0 && matches!(tokens[at - 1].text.as_str(), "pub" | ")");
        if tokens[at].text == "use" {
            at = use_tree(tokens, at + 1, "", &mut paths);
        } else {
            let (path, next) = plain_path(tokens, at);
            paths.extend(
                Some(path).filter(|path| path.contains("::") && path.starts_with(|c: char| is_word(&c.to_string()))),
            );
            at = next;
        }
        found.extend(paths.into_iter().map(|path| Named { path: absolute(module, &path), exported, test }));
    }
    found
}
