//! Which states of the history stay, as the section `keep` or one word of the command line says it.

use std::time::Duration;

use crate::config::document::Section;
use crate::config::{keys, units};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::keep::{Keep, NAMES};

/// Nothing is thinned out that is younger: a snapshot may be on its way for so long.
const MIN_KEEP: Duration = Duration::from_secs(3600);

/// What is wrong: with which step, in words, and what to do about it.
struct Wrong {
    step: &'static str,
    what: String,
    hint: Option<String>,
}

/// Reads the section.
pub(super) fn from_section(section: &Section<'_>, warnings: &mut Vec<String>) -> Result<Keep> {
    warnings.extend(keys::check(section, &keys::KEEP)?);
    let mut durations = [None; NAMES.len()];
    for (name, duration) in NAMES.iter().zip(&mut durations) {
        *duration = section.duration(name)?;
    }
    checked(durations).map_err(|Wrong { step, what, hint }| {
        let error = section.error(step, what);
        hint.into_iter().fold(error, |error, hint| error.with_hint(hint))
    })
}

/// Reads `all=24h,hourly=7d`.
///
/// Errors: of kind `Usage`.
pub fn from_words(text: &str) -> Result<Keep> {
    let expected = |what: String| {
        let names = NAMES.join(", ");
        Error::new(Kind::Usage, what)
            .with_hint(format!("write it as all=24h,hourly=7d,daily=90d; the steps are {names}"))
    };
    let mut durations = [None; NAMES.len()];
    for part in text.split(',') {
        let (name, duration) =
            part.split_once('=').ok_or_else(|| expected(format!("expected STEP=DURATION, found {part:?}")))?;
        let place = NAMES.iter().zip(&mut durations).find(|(known, _)| **known == name);
        let (_, place) = place.ok_or_else(|| expected(format!("there is no step {name:?}")))?;
        let duration = units::duration(duration).with_context(|| name.to_string())?;
        if place.replace(duration).is_some() {
            return Err(expected(format!("{name} is given twice")));
        }
    }
    checked(durations).map_err(|Wrong { step, what, hint }| {
        let error = Error::new(Kind::Usage, format!("{step}: {what}"));
        hint.into_iter().fold(error, |error, hint| error.with_hint(hint))
    })
}

fn checked(durations: [Option<Duration>; NAMES.len()]) -> std::result::Result<Keep, Wrong> {
    let wrong = |step, what: &str| Wrong { step, what: what.to_string(), hint: None };
    for (name, duration) in NAMES.iter().zip(durations) {
        if duration.is_some_and(|duration| duration < MIN_KEEP) {
            return Err(wrong(name, &format!("expected {} or more", units::format_duration(MIN_KEEP))));
        }
    }
    if durations.first().is_some_and(Option::is_none) {
        return Err(wrong("all", "expected how long every commit is kept, found nothing"));
    }
    Keep::new(durations).map_err(|(coarser, finer)| {
        let name = |place: usize| NAMES.get(place).copied().unwrap_or_default();
        let (coarser, finer) = (name(coarser), name(finer));
        let hint = format!("leave out {coarser}: what it keeps, {finer} keeps for longer");
        let what = format!("expected at least as long as {finer}, found less");
        Wrong { step: coarser, what, hint: Some(hint) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn one_word_says_what_the_section_says() {
        let keep = from_words("all=24h,hourly=7d,monthly=1y").unwrap();
        assert_eq!((keep.all, keep.hourly, keep.daily), (24 * HOUR, 7 * 24 * HOUR, Duration::ZERO));
        assert_eq!(keep.monthly, 365 * 24 * HOUR);
        let table = [
            ("", "expected STEP=DURATION, found \"\""),
            ("24h", "expected STEP=DURATION, found \"24h\""),
            ("all=24h,yearly=7d", "there is no step \"yearly\""),
            ("all=24h,all=7d", "all is given twice"),
            ("hourly=7d", "all: expected how long every commit is kept, found nothing"),
            ("all=1m", "all: expected 1h or more"),
            ("all=7d,hourly=24h", "hourly: expected at least as long as all, found less"),
        ];
        for (text, message) in table {
            let error = from_words(text).unwrap_err();
            assert_eq!((error.kind(), error.message()), (Kind::Usage, message), "{text}");
        }
        assert!(from_words("all=24").unwrap_err().message().starts_with("all: "));
    }
}
