//! A moment as people type it. No clock and no time zone is read here.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::format::time::Timestamp;

/// What a text says of a moment.
#[derive(Clone, PartialEq, Debug)]
pub enum Moment {
    At(Timestamp),
    /// Before the moment at which it is asked for.
    Ago(Duration),
    /// A date and a time of day, as RFC 3339 writes them, whose zone is missing.
    Unzoned(String),
}

const EXPECTED: &str = "expected a date, a time and a zone, such as 2026-11-23T06:08:12Z";
const FORMS_HINT: &str = "also understood: 2026-11-23 06:08+0100, @1795500000 (seconds since 1970), -1h (ago), and the form \
                    of object names, 20261123T060812.345Z";

impl Moment {
    /// Reads RFC 3339, also with a space for the T, without seconds, or without the colon in the zone; `@` and seconds
    /// since 1970; and the form of object names. What is finer than a millisecond is cut off, so it is never later.
    ///
    /// Errors: [`Kind::Usage`].
    pub fn parse(text: &str) -> Result<Moment> {
        let refused = || Error::new(Kind::Usage, format!("timestamp {text:?}: {EXPECTED}")).with_hint(FORMS_HINT);
        if let Some(seconds) = text.strip_prefix('@') {
            return epoch(seconds).map(Moment::At).ok_or_else(refused);
        }
        if let Some(moment) = Timestamp::from_key(text) {
            return Ok(Moment::At(moment));
        }
        let (civil, zone) = normal(text).ok_or_else(refused)?;
        let moment = |zone: &str| Timestamp::parse(&format!("{civil}{zone}")).map_err(|_| refused());
        match zone {
            Some(zone) => moment(&zone).map(Moment::At),
            None => moment("Z").map(|_| Moment::Unzoned(civil.clone())),
        }
    }

    /// The moment itself, where `now` is the time, and `offset` gives the minutes that the clock on the wall is before
    /// UTC when it shows a time.
    ///
    /// Errors: [`Kind::Usage`] where the zone is missing, with both readings.
    pub fn resolve(&self, now: Timestamp, offset: impl Fn(Timestamp) -> Option<i64>) -> Result<Timestamp> {
        match self {
            Moment::At(moment) => Ok(*moment),
            Moment::Ago(ago) => Ok(now.before(*ago)),
            Moment::Unzoned(civil) => {
                let shown = Timestamp::parse(&format!("{civil}Z")).ok();
                Err(without_zone(civil, shown.and_then(offset).filter(|offset| *offset != 0)))
            }
        }
    }
}

fn without_zone(civil: &str, offset: Option<i64>) -> Error {
    let error = Error::new(Kind::Usage, format!("timestamp {civil:?}: expected a zone after the time, found none"));
    let Some(offset) = offset else { return error.with_hint(format!("{civil}Z is UTC, which is also the local time")) };
    let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs());
    let local = format!("{civil}{sign}{:02}:{:02}", minutes / 60, minutes % 60);
    error.with_hint(format!("{civil}Z is UTC, {local} is local time"))
}

/// Seconds with or without a fraction.
fn epoch(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let millis = whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis)?;
    Some(Timestamp::from_millis(millis)).filter(|moment| moment.millis() == millis)
}

/// Date and time as RFC 3339 has them, and the zone if there is one.
fn normal(text: &str) -> Option<(String, Option<String>)> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let end = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at_checked(end)?;
    // `date` puts a space before the zone.
    let time = if zone.is_empty() { time } else { time.trim_end_matches(' ') };
    let seconds = if time.len() == 5 { ":00" } else { "" };
    Some((format!("{date}T{time}{seconds}"), (!zone.is_empty()).then(|| with_colon(zone))))
}

/// `+0100` as `+01:00`, and `+01` too.
fn with_colon(zone: &str) -> String {
    match (zone.len(), zone.split_at_checked(3)) {
        (5, Some((hours, minutes))) => format!("{hours}:{minutes}"),
        (3, _) => format!("{zone}:00"),
        _ => zone.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn one_moment_has_many_spellings() {
        for text in [
            "2026-11-23T06:08:00.000Z",
            "2026-11-23t06:08:00z",
            "2026-11-23 06:08:00Z",
            "2026-11-23T06:08Z",
            "2026-11-23 06:08Z",
            "2026-11-23 07:08+01:00",
            "2026-11-23T07:08:00+0100",
            "2026-11-23 07:08:00 +0100",
            "2026-11-23T07:08:00.0009+01",
            "2026-11-22 22:38-0730",
            "@1795414080",
            "@1795414080.0009",
            "20261123T060800.000Z",
        ] {
            assert_eq!(Moment::parse(text).unwrap(), Moment::At(at("2026-11-23T06:08:00Z")), "{text}");
        }
        assert_eq!(Moment::parse("@1.5").unwrap(), Moment::At(Timestamp::from_millis(1500)));
    }

    #[test]
    fn what_is_no_moment_is_refused_with_the_forms_that_are() {
        for text in [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T",
            "2026-11-23T06",
            "2026-11-23T06:8Z",
            "2026-11-23T06:08:12.Z",
            "2026-02-29 00:00Z",
            "2026-11-23_06:08Z",
            "2026-11-23T24:00Z",
            "2026-11-23T06:08+1",
            "2026-11-23T06:08+010",
            "2026-11-23T06:08+01000",
            "2026-11-23T06:08 ",
            "2026-11-23T06:08ZZ",
            "1970-01-01T00:00+0100",
            "1795414080",
            "@",
            "@-1",
            "@1.",
            "@1e3",
            "@99999999999999",
            "20261123T0608Z",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
            "2026-11-23T06:08\u{e9}Z",
        ] {
            let error = Moment::parse(text).unwrap_err();
            assert_eq!((error.kind(), error.hint()), (Kind::Usage, Some(FORMS_HINT)), "{text}");
        }
    }

    #[test]
    fn a_time_ago_is_counted_from_now() {
        let ago = |seconds| Moment::Ago(Duration::from_secs(seconds)).resolve(at("2026-11-23T06:08:12.345Z"), |_| None);
        assert_eq!(ago(3600).unwrap(), at("2026-11-23T05:08:12.345Z"));
        assert_eq!(ago(u64::MAX).unwrap(), Timestamp::default());
    }

    #[test]
    fn a_time_without_a_zone_is_asked_back_with_both_readings() {
        for text in ["2026-07-23T06:08:12", "2026-07-23 06:08:12"] {
            let moment = Moment::parse(text).unwrap();
            let hint = |offset| {
                let error = moment.resolve(Timestamp::default(), |shown| {
                    assert_eq!(shown, at("2026-07-23T06:08:12Z"));
                    offset
                });
                let error = error.unwrap_err();
                assert_eq!(error.kind(), Kind::Usage);
                error.hint().unwrap().to_string()
            };
            assert_eq!(hint(Some(120)), "2026-07-23T06:08:12Z is UTC, 2026-07-23T06:08:12+02:00 is local time");
            assert_eq!(hint(Some(-210)), "2026-07-23T06:08:12Z is UTC, 2026-07-23T06:08:12-03:30 is local time");
            for same in [Some(0), None] {
                assert_eq!(hint(same), "2026-07-23T06:08:12Z is UTC, which is also the local time");
            }
        }
    }
}
