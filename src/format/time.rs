//! Moments in time, in milliseconds, and their RFC 3339 text. No clock is read here.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Kind, Result};

/// Milliseconds since 1970-01-01T00:00:00Z. Dates up to the year 9999 have a text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

const MS_PER_DAY: u64 = 86_400_000;

impl Timestamp {
    /// 1970 begins.
    pub const EPOCH: Timestamp = Timestamp(0);
    /// 9999-12-31T23:59:59.999Z: the last moment that has a text of the usual length.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// Later moments are held at [`Timestamp::MAX`].
    pub fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis).min(Timestamp::MAX)
    }

    /// Rounded up: what happened then has happened by this moment. Before 1970 it is 1970.
    pub fn from_system_time(time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    pub fn millis(self) -> u64 {
        self.0
    }

    /// The time since `earlier`, or none if it is later than this.
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment so much earlier, or 1970.
    pub fn before(self, earlier: std::time::Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(earlier.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The months since year 0 of the calendar.
    pub fn month(self) -> u64 {
        let (year, month, _) = civil_from_days(self.0 / MS_PER_DAY);
        year * 12 + month
    }

    /// The form in object keys, which sorts as time does: `20261123T060812.345Z`.
    pub fn to_key(self) -> String {
        let (year, month, day) = civil_from_days(self.0 / MS_PER_DAY);
        let (hour, minute, second, milli) = clock(self.0 % MS_PER_DAY);
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{milli:03}Z")
    }

    /// Reads what [`Timestamp::to_key`] wrote, and nothing else.
    pub fn from_key(text: &str) -> Option<Timestamp> {
        let separators = [(8, b'T'), (15, b'.'), (19, b'Z')];
        if text.len() != 20 || !text.is_ascii() || separators.iter().any(|(at, c)| text.as_bytes()[*at] != *c) {
            return None;
        }
        let number = |from: usize, to: usize| digits(&text[from..to]);
        let date = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
        millis(date, (number(9, 11)?, number(11, 13)?, number(13, 15)?, number(16, 19)?)).map(Timestamp)
    }

    /// Reads RFC 3339 with a zone; a fraction finer than a millisecond is cut off, so the result is never later.
    ///
    /// Errors: [`Kind::Usage`].
    pub fn parse(text: &str) -> Result<Timestamp> {
        parse(text).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("timestamp {text:?}: expected RFC 3339 with a zone, such as 2026-11-23T06:08:12.345Z"),
            )
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / MS_PER_DAY);
        let (hour, minute, second, milli) = clock(self.0 % MS_PER_DAY);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A time that has passed, in its two largest units: `3d 4h`.
pub fn age_text(age: std::time::Duration) -> String {
    let seconds = age.as_secs();
    let parts = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let first = parts.iter().position(|(_, count)| *count > 0).unwrap_or(3);
    let shown = parts.iter().skip(first).take(2).enumerate().filter(|(at, (_, count))| *at == 0 || *count > 0);
    shown.map(|(_, (unit, count))| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

fn clock(millis: u64) -> (u64, u64, u64, u64) {
    (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60, millis % 1000)
}

/// The civil date of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // Years are counted from 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil_from_days`]; none for a date that does not exist or lies before 1970.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let count = era * 146_097 + day_of_era - 719_468;
    (civil_from_days(count) == (year, month, day)).then_some(count)
}

fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let separators = [(4, b"-"), (7, b"-"), (10, b"T"), (13, b":"), (16, b":")];
    if bytes.len() < 20
        || !text.is_ascii()
        || separators.iter().any(|(at, c)| !c.contains(&bytes[*at].to_ascii_uppercase()))
    {
        return None;
    }
    let number = |from: usize, to: usize| digits(&text[from..to]);
    let (milli, zone) = fraction(&text[19..])?;
    let date = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let local = millis(date, (number(11, 13)?, number(14, 16)?, number(17, 19)?, milli))?;
    let utc = i64::try_from(local).ok()? - zone_minutes(zone)? * 60_000;
    u64::try_from(utc).ok().map(Timestamp).filter(|moment| *moment <= Timestamp::MAX)
}

/// Milliseconds since 1970 of a date and a time of day; none if there is no such moment.
fn millis((year, month, day): (u64, u64, u64), (hour, minute, second, milli): (u64, u64, u64, u64)) -> Option<u64> {
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(year, month, day)?;
    Some(days * MS_PER_DAY + (hour * 3600 + minute * 60 + second) * 1000 + milli)
}

/// Splits `.345Z` into milliseconds and the zone.
fn fraction(text: &str) -> Option<(u64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    let milli = format!("{:0<3}", &rest[..end]);
    (end > 0).then_some(())?;
    Some((digits(&milli[..3])?, &rest[end..]))
}

fn zone_minutes(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("Z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) as i64)
}

fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_text() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_795_413_292_345, "2026-11-23T05:54:52.345Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ];
        for (millis, text) in table {
            let moment = Timestamp::from_millis(millis);
            assert_eq!(moment.to_string(), text);
            assert_eq!(Timestamp::parse(text).unwrap(), moment);
            assert_eq!(Timestamp::from_key(&moment.to_key()), Some(moment));
        }
    }

    #[test]
    fn an_age_is_told_in_two_units() {
        let table = [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h"), (3661, "1h 1m"), (90_000, "1d 1h")];
        for (seconds, text) in table {
            assert_eq!(age_text(std::time::Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn every_day_reads_back() {
        for day in 0..2_932_896 {
            let (year, month, date) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, date), Some(day));
        }
    }

    #[test]
    fn zones_and_fractions_are_understood_and_never_round_up() {
        let utc = Timestamp::parse("2026-11-23T06:08:12.999Z").unwrap();
        for same in ["2026-11-23T07:08:12.999+01:00", "2026-11-22T22:38:12.999-07:30", "2026-11-23t06:08:12.9999999z"] {
            assert_eq!(Timestamp::parse(same).unwrap(), utc, "{same}");
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T06:08:12",
            "2026-11-23 06:08:12Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T06:08:60Z",
            "2026-11-23T06:08:12.Z",
            "2026-11-23T06:08:12+0100",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
        for text in ["20260229T000000.000Z", "2026112 T060812.345Z", "20261123T060812.345z", "20261123T060812.34"] {
            assert_eq!(Timestamp::from_key(text), None, "{text}");
        }
    }
}
