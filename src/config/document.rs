//! The YAML document: values by key, with the line of each for errors. With `locate`, the only user of `serde_yaml`.

use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::source_location::{self, PathSegment};
use super::units;
use super::variables::{LookupVar, expand};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A parsed document, variables put in.
pub(super) struct Document {
    text: String,
    root: Value,
}

impl Document {
    /// Errors: what is no YAML; a variable that is not set. `env` is none if variables are to stay as they are.
    pub fn parse(text: &str, env: Option<LookupVar<'_>>) -> Result<Document> {
        let mut root: Value = serde_yaml::from_str(text).map_err(not_yaml)?;
        root.apply_merge().map_err(not_yaml)?;
        let mut document = Document { text: text.to_string(), root: Value::Null };
        if let Some(env) = env {
            document.expand(&mut root, env, &mut Vec::new())?;
        }
        document.root = root;
        Ok(document)
    }

    /// The whole document.
    pub fn root(&self) -> Result<Section<'_>> {
        Section::new(self, Vec::new(), &self.root)
    }

    fn expand(&self, value: &mut Value, env: LookupVar<'_>, steps: &mut Vec<PathSegment>) -> Result<()> {
        match value {
            Value::String(text) if text.contains('$') => {
                let secret = holds_secret(steps, text);
                *text = expand(text, env).map_err(|what| {
                    let what = if secret { SECRET_VARIABLE.to_string() } else { what };
                    self.error(steps, what).with_hint("set it, write $$ for a dollar, or give -no-expand-env")
                })?;
            }
            Value::Sequence(items) => {
                for (number, item) in items.iter_mut().enumerate() {
                    self.expand_below(item, env, steps, PathSegment::Item(number))?;
                }
            }
            Value::Mapping(map) => {
                for (key, item) in map.iter_mut() {
                    let key = key.as_str().unwrap_or_default().to_string();
                    self.expand_below(item, env, steps, PathSegment::Key(key))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn expand_below(
        &self,
        item: &mut Value,
        env: LookupVar<'_>,
        steps: &mut Vec<PathSegment>,
        step: PathSegment,
    ) -> Result<()> {
        steps.push(step);
        self.expand(item, env, steps)?;
        steps.pop();
        Ok(())
    }

    /// An error at a value: its line if it can be told, its key, and what is wrong.
    fn error(&self, steps: &[PathSegment], what: impl std::fmt::Display) -> Error {
        let key = steps.iter().rev().find_map(|step| match step {
            PathSegment::Key(key) => Some(format!("{key}: ")),
            PathSegment::Item(_) => None,
        });
        let line = source_location::line_of(&self.text, steps).map(|line| format!("line {line}: ")).unwrap_or_default();
        Error::usage(format!("{line}{}{what}", key.unwrap_or_default()))
    }
}

/// In a secret, what looks like the name of a variable may be a piece of the secret.
const SECRET_VARIABLE: &str = "a $ begins the name of a variable that is not set";
const SECRET_KEYS: [&str; 6] = ["username", "password", "token", "jwt", "seed", "heartbeat-url"];

/// Whether a value is a secret, or has one in it.
fn holds_secret(steps: &[PathSegment], text: &str) -> bool {
    let key = steps.iter().rev().find_map(|step| match step {
        PathSegment::Key(key) => Some(key.as_str()),
        PathSegment::Item(_) => None,
    });
    let login = text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    login || key.is_some_and(|key| SECRET_KEYS.contains(&key))
}

/// A mapping in the document.
pub(super) struct Section<'a> {
    document: &'a Document,
    segments: Vec<PathSegment>,
    map: Option<&'a Mapping>,
}

impl<'a> Section<'a> {
    fn new(document: &'a Document, steps: Vec<PathSegment>, value: &'a Value) -> Result<Section<'a>> {
        let map = match value {
            Value::Mapping(map) => Some(map),
            Value::Null => None,
            other => {
                return Err(document
                    .error(&steps, format!("expected lines of the form `key: value`, found {}", type_name(other))));
            }
        };
        Ok(Section { document, segments: steps, map })
    }

    /// The keys that are written here, also those without a value.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.into_iter().flat_map(|map| map.keys()).map(|key| key.as_str().unwrap_or("(not a text)"))
    }

    /// Whether the key has a value.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// An error at a key.
    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        self.document.error(&self.below(key), what)
    }

    /// An error about the section as a whole.
    pub fn error_here(&self, what: impl std::fmt::Display) -> Error {
        self.document.error(&self.segments, what)
    }

    /// The error of a deeper check, told at a key.
    pub fn with_key_context<T>(&self, key: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let placed = self.error(key, error.message());
            match error.hint() {
                Some(hint) => placed.with_hint(hint),
                None => placed,
            }
        })
    }

    /// The error of a deeper check, told at the section as a whole.
    pub fn with_section_context<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let placed = self.error_here(error.message());
            match error.hint() {
                Some(hint) => placed.with_hint(hint),
                None => placed,
            }
        })
    }

    fn below(&self, key: &str) -> Vec<PathSegment> {
        let mut steps = self.segments.clone();
        steps.push(PathSegment::Key(key.to_string()));
        steps
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// A text, which may not be empty. A number is taken as it is written.
    pub fn text(&self, key: &str) -> Result<Option<String>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = self.scalar(value, &self.below(key))?;
        if text.is_empty() {
            return Err(self.error(key, "expected a text, found an empty one"));
        }
        Ok(Some(text))
    }

    pub fn secret(&self, key: &str) -> Result<Option<Secret>> {
        Ok(self.text(key)?.map(Secret::new))
    }

    fn scalar(&self, value: &Value, steps: &[PathSegment]) -> Result<String> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => {
                Ok(source_location::scalar_text(&self.document.text, steps).unwrap_or_else(|| number.to_string()))
            }
            Value::Bool(on) => {
                Ok(source_location::scalar_text(&self.document.text, steps).unwrap_or_else(|| on.to_string()))
            }
            other => Err(self.document.error(steps, format!("expected a text, found {}", type_name(other)))),
        }
    }

    /// A list of texts; one text alone is a list of one.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(Value::Sequence(items)) = self.get(key) else {
            return Ok(self.text(key)?.map(|text| vec![text]));
        };
        let text = |(number, item): (usize, &Value)| {
            let mut steps = self.below(key);
            steps.push(PathSegment::Item(number));
            match self.scalar(item, &steps)? {
                text if text.is_empty() => Err(self.document.error(&steps, "expected a text, found an empty one")),
                text => Ok(text),
            }
        };
        items.iter().enumerate().map(text).collect::<Result<Vec<_>>>().map(Some)
    }

    pub fn duration(&self, key: &str) -> Result<Option<Duration>> {
        let text = self.text(key)?;
        self.with_key_context(key, text.map(|text| units::duration_in(&text, usual_units(key))).transpose())
    }

    /// A duration of more than nothing.
    pub fn interval(&self, key: &str) -> Result<Option<Duration>> {
        match self.duration(key)? {
            Some(duration) if duration.is_zero() => Err(self.error(key, "expected more than 0, found 0")),
            duration => Ok(duration),
        }
    }

    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        let text = self.text(key)?;
        self.with_key_context(key, text.map(|text| units::size(&text)).transpose())
    }

    /// A whole number from `least` to `most`.
    pub fn integer(&self, key: &str, least: i64, most: i64) -> Result<Option<i64>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.error(key, format!("expected a whole number from {least} to {most}, found {text:?}"))),
        }
    }

    /// Yes or no, in the words of YAML 1.1.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(Some(true)),
            "false" | "no" | "off" => Ok(Some(false)),
            _ => Err(self.error(key, format!("expected true or false, found {text:?}"))),
        }
    }

    /// A section inside this one.
    pub fn section(&self, key: &str) -> Result<Option<Section<'a>>> {
        self.get(key).map(|value| Section::new(self.document, self.below(key), value)).transpose()
    }

    /// A list of sections; nothing for a key that is not there.
    pub fn sections(&self, key: &str) -> Result<Vec<Section<'a>>> {
        let items = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Sequence(items)) => items,
            Some(other) => return Err(self.error(key, format!("expected a list, found {}", type_name(other)))),
        };
        let section = |(number, item)| {
            let mut steps = self.below(key);
            steps.push(PathSegment::Item(number));
            Section::new(self.document, steps, item)
        };
        items.iter().enumerate().map(section).collect()
    }

    /// The line of a key, for warnings.
    pub fn line(&self, key: &str) -> Option<usize> {
        source_location::line_of(&self.document.text, &self.below(key))
    }
}

/// What the parser says, the line first. Of all its messages one repeats a value, which may be a secret: the one about an
/// integer of more than 64 bits.
fn not_yaml(error: serde_yaml::Error) -> Error {
    let line = error.location().map(|location| format!("line {}: ", location.line())).unwrap_or_default();
    let text = error.to_string();
    if text.contains("invalid type") {
        return Error::usage(format!("{line}the number has too many digits")).with_hint("put it in quotes");
    }
    Error::usage(format!("{line}{}", text.split(" at line ").next().unwrap_or_default()))
}

/// The units that a duration of this key has as a rule: what looks like a slip is not to cost a history.
fn usual_units(key: &str) -> &'static [&'static str] {
    match key {
        "retention" | "all" | "hourly" | "daily" | "weekly" | "monthly" => &["h", "d", "w"],
        "interval" => &["h", "d"],
        "heartbeat-interval" => &["m", "h"],
        _ => &["s"],
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "lines of the form `key: value`",
        Value::Tagged(_) => "a tag",
    }
}
