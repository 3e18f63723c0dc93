//! The YAML document: values by key, with the line of each for errors. The only user of `serde_yaml`.
//!
//! Parsed values carry no lines. When one is asked for, the text is read again by a reader that stops on purpose at the
//! value or key in question, and the parser's error tells where that was: right for every style of YAML, and no cost
//! while all is well. The same walk gives a scalar as it is written, so that `password: 0123` stays `0123`.

use std::time::Duration;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

use super::expand::{Env, expand};
use super::units;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

/// One step from a value to one inside it.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Item(usize),
}

/// A parsed document, variables put in.
pub(super) struct Document {
    text: String,
    root: Value,
}

impl Document {
    /// Errors: what is no YAML; a variable that is not set. `env` is none if variables are to stay as they are.
    pub fn parse(text: &str, env: Option<Env<'_>>) -> Result<Document> {
        let mut root: Value = serde_yaml::from_str(text).map_err(|e| usage(e.to_string()))?;
        root.apply_merge().map_err(|e| usage(e.to_string()))?;
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

    fn expand(&self, value: &mut Value, env: Env<'_>, steps: &mut Vec<Step>) -> Result<()> {
        match value {
            Value::String(text) if text.contains('$') => {
                *text = expand(text, env).map_err(|what| {
                    self.error(steps, what).with_hint("set it, write $$ for a dollar, or give -no-expand-env")
                })?;
            }
            Value::Sequence(items) => {
                for (number, item) in items.iter_mut().enumerate() {
                    self.expand_below(item, env, steps, Step::Item(number))?;
                }
            }
            Value::Mapping(map) => {
                for (key, item) in map.iter_mut() {
                    let key = key.as_str().unwrap_or_default().to_string();
                    self.expand_below(item, env, steps, Step::Key(key))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn expand_below(&self, item: &mut Value, env: Env<'_>, steps: &mut Vec<Step>, step: Step) -> Result<()> {
        steps.push(step);
        self.expand(item, env, steps)?;
        steps.pop();
        Ok(())
    }

    /// An error at a value: its line if it can be told, its key, and what is wrong.
    fn error(&self, steps: &[Step], what: impl std::fmt::Display) -> Error {
        let key = steps.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(format!("{key}: ")),
            Step::Item(_) => None,
        });
        let line = self.line(steps).map(|line| format!("line {line}: ")).unwrap_or_default();
        usage(format!("{line}{}{what}", key.unwrap_or_default()))
    }

    /// The line of a value's key, or of a list's item; where it comes from a merge, the line of what holds it.
    fn line(&self, steps: &[Step]) -> Option<usize> {
        (0..=steps.len()).rev().find_map(|length| {
            let found = self.walk(steps.get(..length)?, Goal::Line).err()?;
            let is_ours = found.to_string().contains(MARK);
            found.location().filter(|_| is_ours).map(|location| location.line())
        })
    }

    /// A scalar as it is written.
    fn raw(&self, steps: &[Step]) -> Option<String> {
        self.walk(steps, Goal::Raw).ok().flatten()
    }

    fn walk(&self, steps: &[Step], goal: Goal) -> std::result::Result<Option<String>, serde_yaml::Error> {
        Walk { steps, goal }.deserialize(serde_yaml::Deserializer::from_str(&self.text))
    }
}

/// What the error of a walk that reached its goal says.
const MARK: &str = "(the value that was looked for)";

#[derive(Clone, Copy, PartialEq)]
enum Goal {
    /// Fail at the key or item, so that the error has its line.
    Line,
    /// Give the scalar's text.
    Raw,
}

/// Follows the steps through the document.
#[derive(Clone, Copy)]
struct Walk<'a> {
    steps: &'a [Step],
    goal: Goal,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        match (self.steps.first(), self.goal) {
            (None, Goal::Raw) => deserializer.deserialize_str(self),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value on the way")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let Some((Step::Key(wanted), below)) = self.steps.split_first() else {
            return Err(A::Error::custom(MARK));
        };
        let mut found = None;
        let stop = below.is_empty() && self.goal == Goal::Line;
        while let Some(is_it) = map.next_key_seed(KeyIs { wanted, stop })? {
            if is_it {
                found = map.next_value_seed(Walk { steps: below, goal: self.goal })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Self::Value, A::Error> {
        let Some((Step::Item(wanted), below)) = self.steps.split_first() else {
            return Err(A::Error::custom(MARK));
        };
        for _ in 0..*wanted {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = items.next_element_seed(Walk { steps: below, goal: self.goal })?.flatten();
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
        self.scalar(text)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> std::result::Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> std::result::Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> std::result::Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> std::result::Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Self::Value, E> {
        self.scalar("")
    }
}

impl Walk<'_> {
    fn scalar<E: serde::de::Error>(self, text: &str) -> std::result::Result<Option<String>, E> {
        match (self.steps.is_empty(), self.goal) {
            (true, Goal::Line) => Err(E::custom(MARK)),
            (true, Goal::Raw) => Ok(Some(text.to_string())),
            (false, _) => Ok(None),
        }
    }
}

/// Compares a key with the one that is looked for, and may stop there.
struct KeyIs<'a> {
    wanted: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> std::result::Result<bool, E> {
        match (key == self.wanted, self.stop) {
            (true, true) => Err(E::custom(MARK)),
            (is_it, _) => Ok(is_it),
        }
    }
}

/// A mapping in the document.
pub(super) struct Section<'a> {
    document: &'a Document,
    steps: Vec<Step>,
    map: Option<&'a Mapping>,
}

impl<'a> Section<'a> {
    fn new(document: &'a Document, steps: Vec<Step>, value: &'a Value) -> Result<Section<'a>> {
        let map = match value {
            Value::Mapping(map) => Some(map),
            Value::Null => None,
            other => return Err(document.error(&steps, format!("expected keys with values, found {}", sort_of(other)))),
        };
        Ok(Section { document, steps, map })
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
    pub fn wrong(&self, what: impl std::fmt::Display) -> Error {
        self.document.error(&self.steps, what)
    }

    /// The error of a deeper check, told at a key.
    pub fn at<T>(&self, key: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let placed = self.error(key, error.message());
            match error.hint() {
                Some(hint) => placed.with_hint(hint),
                None => placed,
            }
        })
    }

    /// The error of a deeper check, told at the section as a whole.
    pub fn at_whole<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let placed = self.wrong(error.message());
            match error.hint() {
                Some(hint) => placed.with_hint(hint),
                None => placed,
            }
        })
    }

    fn below(&self, key: &str) -> Vec<Step> {
        let mut steps = self.steps.clone();
        steps.push(Step::Key(key.to_string()));
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

    fn scalar(&self, value: &Value, steps: &[Step]) -> Result<String> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(self.document.raw(steps).unwrap_or_else(|| number.to_string())),
            Value::Bool(on) => Ok(self.document.raw(steps).unwrap_or_else(|| on.to_string())),
            other => Err(self.document.error(steps, format!("expected a text, found {}", sort_of(other)))),
        }
    }

    /// A list of texts; one text alone is a list of one.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(Value::Sequence(items)) = self.get(key) else {
            return Ok(self.text(key)?.map(|text| vec![text]));
        };
        let text = |(number, item): (usize, &Value)| {
            let mut steps = self.below(key);
            steps.push(Step::Item(number));
            match self.scalar(item, &steps)? {
                text if text.is_empty() => Err(self.document.error(&steps, "expected a text, found an empty one")),
                text => Ok(text),
            }
        };
        items.iter().enumerate().map(text).collect::<Result<Vec<_>>>().map(Some)
    }

    pub fn duration(&self, key: &str) -> Result<Option<Duration>> {
        let text = self.text(key)?;
        self.at(key, text.map(|text| units::duration(&text)).transpose())
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
        self.at(key, text.map(|text| units::size(&text)).transpose())
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
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
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
            Some(other) => return Err(self.error(key, format!("expected a list, found {}", sort_of(other)))),
        };
        let section = |(number, item)| {
            let mut steps = self.below(key);
            steps.push(Step::Item(number));
            Section::new(self.document, steps, item)
        };
        items.iter().enumerate().map(section).collect()
    }

    /// The line of a key, for warnings.
    pub fn line(&self, key: &str) -> Option<usize> {
        self.document.line(&self.below(key))
    }
}

fn sort_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "keys with values",
        Value::Tagged(_) => "a tag",
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}
