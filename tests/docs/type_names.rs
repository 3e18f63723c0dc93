//! One name for one thing: no type of the program has the name of another one, and the glossary names types that are there.

use std::collections::BTreeMap;

use crate::layers::{File, Token, forged, is_word, source_files, tokens};

#[test]
fn no_type_has_the_name_of_another() {
    let faults = shared_names(&source_files());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_forged_second_type_is_caught() {
    let table = [
        ("pub struct Stage;", "enum Stage { Begin }"),
        ("pub(super) trait Stage {}", "fn f() { struct Stage; }"),
        ("type Stage = u8;", "impl Put for A { type Error = (); }\npub struct Stage<'a>(&'a str);"),
    ];
    for (one, other) in table {
        let faults = shared_names(&[forged("a", one), forged("b", other)]);
        assert_eq!(faults, ["Stage is a type in a and in b"], "{one} {other}");
    }
}

#[test]
fn a_type_of_tests_or_of_a_trait_may_share_its_name() {
    let table = [
        ("struct Stage;", "#[cfg(test)]\nmod tests { struct Stage; }"),
        ("trait One { type Stage; }", "impl One for Two { type Stage = u8; }\nstruct Stage;"),
        ("struct Stage;", "fn f() { let x = \"struct Stage;\"; /* enum Stage {} */ }"),
    ];
    for (one, other) in table {
        assert_eq!(shared_names(&[forged("a", one), forged("b", other)]), [""; 0], "{one} {other}");
    }
    let in_a_test_file = File { test: true, ..forged("a::tests", "struct Stage;") };
    assert_eq!(shared_names(&[forged("a", "struct Stage;"), in_a_test_file]), [""; 0]);
}

#[test]
fn the_types_of_the_glossary_are_there() {
    let files = source_files();
    let types = defined(&files);
    let root = files.iter().find(|file| file.module == "lib").expect("the root of the crate");
    let (_, glossary) = root.text.split_once("//! # Glossary").expect("a glossary");
    let glossary = glossary.split("//! # ").next().unwrap_or_default();
    let quoted = glossary.split('`').skip(1).step_by(2);
    let names: Vec<&str> = quoted.filter(|name| name.starts_with(char::is_uppercase) && !name.contains(':')).collect();
    assert!(names.len() > 10, "{names:?}");
    let missing: Vec<&&str> = names.iter().filter(|name| !types.contains_key(**name)).collect();
    assert!(missing.is_empty(), "the glossary in src/lib.rs names types that are not there: {missing:?}");
}

fn shared_names(files: &[File]) -> Vec<String> {
    let shared = defined(files).into_iter().filter(|(_, modules)| modules.len() > 1);
    shared.map(|(name, modules)| format!("{name} is a type in {}", modules.join(" and in "))).collect()
}

/// The modules in which each name is a type.
fn defined(files: &[File]) -> BTreeMap<String, Vec<&str>> {
    let mut types: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.test) {
        for name in types_of(&tokens(&file.text)) {
            types.entry(name).or_default().push(&file.module);
        }
    }
    types
}

/// The types that are defined in the code, without those of tests and those that belong to a trait.
fn types_of(tokens: &[Token]) -> Vec<String> {
    let mut found = Vec::new();
    // Of each open brace, whether it is that of a trait or of an implementation; and whether the next one will be.
    let (mut braces, mut next_is_body) = (Vec::new(), false);
    for (at, token) in tokens.iter().enumerate() {
        let begins_item =
            at == 0 || matches!(tokens[at - 1].text.as_str(), "}" | "{" | ";" | "]" | ")" | "pub" | "unsafe");
        match token.text.as_str() {
            "{" => braces.push(std::mem::take(&mut next_is_body)),
            "}" => _ = braces.pop(),
            "impl" if begins_item => next_is_body = true,
            "struct" | "enum" | "trait" | "type" if begins_item => {
                let belongs_to_trait = token.text == "type" && braces.last() == Some(&true);
                let name = tokens.get(at + 1).map(|next| next.text.as_str()).filter(|text| is_word(text));
                found.extend(name.filter(|_| !token.test && !belongs_to_trait).map(str::to_string));
                next_is_body |= token.text == "trait";
            }
            _ => {}
        }
    }
    found
}
