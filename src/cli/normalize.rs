//! The pre-pass: brings the words of the user into the one order and spelling that `argh` reads.
//!
//! `-option`, `--option`, `-option value` and `-option=value` are the same; global options may stand before or after
//! the command; `--` ends the options. Every mistake is answered here, where the nearest right word is known.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::foreign_words;
use crate::config::{mask_credentials, suggest::nearest};
use crate::error::{Error, Result};

/// What the user said, sorted.
#[derive(Default, Debug)]
pub(super) struct NormalizedArgs {
    pub command: Option<String>,
    pub help: bool,
    globals: Vec<String>,
    options: Vec<String>,
    positionals: Vec<String>,
    /// Names of the options seen, for telling a second use.
    seen: Vec<String>,
}

impl NormalizedArgs {
    /// The words in the order `globals command options -- positionals`.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.globals.clone();
        words.extend(self.command.clone());
        words.extend(self.options.iter().cloned());
        if !self.positionals.is_empty() {
            words.push("--".to_string());
            words.extend(self.positionals.iter().cloned());
        }
        words
    }

    /// Takes a word that is no option: the command first, its arguments afterwards.
    fn word(&mut self, word: &str, info: &CommandInfoWithArgs) -> Result<()> {
        if self.command.is_some() {
            self.positionals.push(word.to_string());
        } else if word == "help" {
            self.help = true;
        } else if info.commands.iter().any(|c| c.name == word) {
            self.command = Some(word.to_string());
        } else {
            return Err(unknown_command(word, info));
        }
        Ok(())
    }

    /// Arguments are for commands that know some.
    fn validate(&self, info: &CommandInfoWithArgs) -> Result<()> {
        let command = info.commands.iter().find(|c| Some(c.name) == self.command.as_deref());
        match command {
            Some(command) if command.command.positionals.is_empty() && !self.positionals.is_empty() => {
                Err(Error::usage(format!("{}: expected no argument, found {}", command.name, self.positionals.len())))
            }
            _ => Ok(()),
        }
    }

    fn reject_duplicate(&mut self, name: &str) -> Result<()> {
        if self.seen.iter().any(|n| n == name) {
            return Err(Error::usage(format!("option -{name} is given twice")));
        }
        self.seen.push(name.to_string());
        Ok(())
    }
}

/// Sorts the words of the user by what `info` knows.
pub(super) fn normalize(argv: &[String], info: &CommandInfoWithArgs) -> Result<NormalizedArgs> {
    let mut sorted = NormalizedArgs::default();
    let mut argv = argv.iter();
    while let Some(word) = argv.next() {
        match option_name(word) {
            None => sorted.word(word, info)?,
            Some("") => {
                argv.by_ref().try_for_each(|rest| sorted.word(rest, info))?;
            }
            Some("h" | "help") => sorted.help = true,
            Some("version") if sorted.command.is_none() => sorted.command = Some("version".to_string()),
            Some(option) => parse_option(&mut sorted, option, &mut argv, info)?,
        }
    }
    sorted.validate(info)?;
    Ok(sorted)
}

/// What follows the dashes; none for a word that is no option, such as `-` or `-5`.
fn option_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let starts_as_name = name.starts_with(|c: char| c.is_ascii_alphabetic());
    (starts_as_name || word == "--").then_some(name)
}

fn parse_option<'a>(
    sorted: &mut NormalizedArgs,
    option: &str,
    rest: &mut impl Iterator<Item = &'a String>,
    info: &CommandInfoWithArgs,
) -> Result<()> {
    let (name, inline) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value.to_string())),
        None => (option, None),
    };
    let command = sorted.command.as_deref().and_then(|name| info.commands.iter().find(|c| c.name == name));
    let own = command.map_or(&[] as &[_], |c| c.command.flags);
    let (flag, is_global) = match (find(info.flags, name), find(own, name)) {
        (Some(flag), _) => (flag, true),
        (None, Some(flag)) => (flag, false),
        (None, None) => return Err(unknown_option(name, command.map(|c| c.name), info, own)),
    };
    sorted.reject_duplicate(name)?;
    let words = to_argh_spelling(flag, name, inline, rest)?;
    let place = if is_global { &mut sorted.globals } else { &mut sorted.options };
    place.extend(words);
    Ok(())
}

fn find<'a>(flags: &'a [FlagInfo<'a>], name: &str) -> Option<&'a FlagInfo<'a>> {
    flags.iter().find(|flag| is_bare_word(flag.long) == name)
}

/// An option's name without its dashes.
pub(super) fn is_bare_word(long: &str) -> &str {
    long.trim_start_matches('-')
}

/// The option as `argh` reads it: `--name`, then its value if it has one.
fn to_argh_spelling<'a>(
    flag: &FlagInfo<'_>,
    name: &str,
    inline: Option<String>,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<Vec<String>> {
    let long = format!("--{name}");
    if let FlagInfoKind::Option { arg_name } = flag.kind {
        let value = inline.or_else(|| rest.next().cloned());
        let value = value.ok_or_else(|| Error::usage(format!("option -{name} needs a value: -{name} {arg_name}")))?;
        return Ok(vec![long, value]);
    }
    match inline.as_deref() {
        None | Some("true") => Ok(vec![long]),
        Some("false") => Ok(Vec::new()),
        Some(_) => Err(Error::usage(format!("option -{name} takes no value"))),
    }
}

fn unknown_command(word: &str, info: &CommandInfoWithArgs) -> Error {
    let error = Error::usage(format!("unknown command {:?}", mask_credentials(word)));
    if let Some(instead) = foreign_words::replacement_for_command(word) {
        return error.with_hint(instead);
    }
    match nearest(word, info.commands.iter().map(|c| c.name)) {
        Some(name) => error.with_hint(format!("did you mean {name}?")),
        None => error.with_hint("litestream -h lists the commands"),
    }
}

fn unknown_option(name: &str, command: Option<&str>, info: &CommandInfoWithArgs, own: &[FlagInfo<'_>]) -> Error {
    let place = command.map_or("before the command".to_string(), |c| format!("for {c}"));
    let error = Error::usage(format!("unknown option -{name} {place}"));
    if let Some(instead) = foreign_words::replacement_for_option(name) {
        return error.with_hint(instead);
    }
    let known = info.flags.iter().chain(own).map(|flag| is_bare_word(flag.long));
    if let Some(near) = nearest(name, known) {
        return error.with_hint(format!("did you mean -{near}?"));
    }
    let owner = info.commands.iter().find(|c| find(c.command.flags, name).is_some());
    match (owner, command) {
        (Some(owner), None) => error.with_hint(format!("put it after the command: litestream {} -{name}", owner.name)),
        (Some(owner), Some(_)) => error.with_hint(format!("it belongs to {}", owner.name)),
        (None, Some(command)) => error.with_hint(format!("litestream {command} -h lists the options")),
        (None, None) => error.with_hint("litestream -h lists the commands"),
    }
}
