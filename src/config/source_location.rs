//! Where a value stands in the text of a document.
//!
//! Parsed values carry no lines. When one is asked for, the text is read again by a reader that stops on purpose at the
//! value or key in question, and the parser's error tells where that was: right for every style of YAML, and no cost
//! while all is well. The same walk gives a scalar as it is written, so that `password: 0123` stays `0123`.

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step from a value to one inside it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PathSegment {
    Key(String),
    Item(usize),
}

/// The line of a value's key, or of a list's item; where it comes from a merge, the line of what holds it.
pub(super) fn line_of(text: &str, steps: &[PathSegment]) -> Option<usize> {
    (0..=steps.len()).rev().find_map(|length| {
        let found = walk(text, steps.get(..length)?, Lookup::Line).err()?;
        let is_ours = found.to_string().contains(SENTINEL);
        found.location().filter(|_| is_ours).map(|location| location.line())
    })
}

/// A scalar as it is written.
pub(super) fn scalar_text(text: &str, steps: &[PathSegment]) -> Option<String> {
    walk(text, steps, Lookup::Scalar).ok().flatten()
}

fn walk(text: &str, steps: &[PathSegment], goal: Lookup) -> Result<Option<String>, serde_yaml::Error> {
    PathVisitor { segments: steps, goal }.deserialize(serde_yaml::Deserializer::from_str(text))
}

/// What the error of a walk that reached its goal says.
const SENTINEL: &str = "(the value that was looked for)";

#[derive(Clone, Copy, PartialEq)]
enum Lookup {
    /// Fail at the key or item, so that the error has its line.
    Line,
    /// Give the scalar's text.
    Scalar,
}

/// Follows the steps through the document.
#[derive(Clone, Copy)]
struct PathVisitor<'a> {
    segments: &'a [PathSegment],
    goal: Lookup,
}

impl<'de> DeserializeSeed<'de> for PathVisitor<'_> {
    type Value = Option<String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match (self.segments.first(), self.goal) {
            (None, Lookup::Scalar) => deserializer.deserialize_str(self),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for PathVisitor<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value on the way")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((PathSegment::Key(wanted), below)) = self.segments.split_first() else {
            return Err(A::Error::custom(SENTINEL));
        };
        let mut found = None;
        let stop = below.is_empty() && self.goal == Lookup::Line;
        while let Some(is_it) = map.next_key_seed(KeyMatcher { wanted, stop })? {
            if is_it {
                found = map.next_value_seed(PathVisitor { segments: below, goal: self.goal })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let Some((PathSegment::Item(wanted), below)) = self.segments.split_first() else {
            return Err(A::Error::custom(SENTINEL));
        };
        for _ in 0..*wanted {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = items.next_element_seed(PathVisitor { segments: below, goal: self.goal })?.flatten();
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.scalar(text)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        self.scalar("")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        self.scalar("")
    }
}

impl PathVisitor<'_> {
    fn scalar<E: serde::de::Error>(self, text: &str) -> Result<Option<String>, E> {
        match (self.segments.is_empty(), self.goal) {
            (true, Lookup::Line) => Err(E::custom(SENTINEL)),
            (true, Lookup::Scalar) => Ok(Some(text.to_string())),
            (false, _) => Ok(None),
        }
    }
}

/// Compares a key with the one that is looked for, and may stop there.
struct KeyMatcher<'a> {
    wanted: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for KeyMatcher<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyMatcher<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.stop) {
            (true, true) => Err(E::custom(SENTINEL)),
            (is_it, _) => Ok(is_it),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(path: &str) -> Vec<PathSegment> {
        let step = |part: &str| part.parse().map_or_else(|_| PathSegment::Key(part.to_string()), PathSegment::Item);
        path.split('.').filter(|part| !part.is_empty()).map(step).collect()
    }

    #[test]
    fn a_line_is_found_in_every_style() {
        let text =
            "# comment\na:\n  - b: 1\n    c: |\n      a: 2\n  - {b: 3,\n     d: [x,\n  y]}\n\"e\": !!str 5\nf: *x\n";
        let text = text.replace("a:\n  - b: 1", "a:\n  - b: &x 1");
        let table = [
            ("", Some(2)),
            ("a", Some(2)),
            ("a.0", Some(3)),
            ("a.0.b", Some(3)),
            ("a.0.c", Some(4)),
            ("a.1.b", Some(6)),
            ("a.1.d", Some(7)),
            ("a.1.d.1", Some(8)),
            ("e", Some(9)),
            ("f", Some(10)),
            ("a.1.nope", Some(6)),
            ("a.9", Some(2)),
            ("nope.x", Some(2)),
        ];
        for (path, expected) in table {
            assert_eq!(line_of(&text, &steps(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_scalar_is_given_as_it_is_written() {
        let text = "a: 0123\nb: [1e3, 'x']\nc: {d: 0x1F}\n";
        let table = [("a", Some("0123")), ("b.0", Some("1e3")), ("b.1", Some("x")), ("c.d", Some("0x1F")), ("c", None)];
        for (path, expected) in table {
            assert_eq!(scalar_text(text, &steps(path)).as_deref(), expected, "{path}");
        }
    }
}
