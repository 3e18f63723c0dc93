//! Durations and sizes as texts with a unit.

use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// In nanoseconds. `d`, `w` and `y` are ours; the others are Go's.
const DURATION_UNITS: [(&str, u64); 11] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
    // 365 days.
    ("y", 31_536_000_000_000_000),
];

/// In bytes: powers of 1000 and of 1024.
const SIZE_UNITS: [(&str, u64); 12] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1024),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("G", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads `1h30m`, `50ms`, `1.5s`, `2d`, and `0`.
///
/// Errors: [`Kind::Usage`]; a number without a unit is refused, since its unit would be a guess.
pub fn duration(text: &str) -> Result<Duration> {
    duration_in(text, &["s"])
}

/// The same, where a number without a unit is asked back with these units.
pub fn duration_in(text: &str, usual: &[&str]) -> Result<Duration> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if is_number(text) {
        let meant: Vec<String> = usual.iter().map(|unit| format!("{text}{unit}")).collect();
        let hint = format!("did you mean {}?", meant.join(" or "));
        return Err(invalid("duration", text, "a number with a unit").with_hint(hint));
    }
    let wrong = || {
        invalid("duration", text, "numbers with units, such as 50ms, 1.5s, 1h30m or 2d")
            .with_hint("units are ns, us, ms, s, m, h, d, w and y")
    };
    let mut rest = text;
    let mut nanos = 0u64;
    while !rest.is_empty() {
        let (part, behind) = duration_part(rest).ok_or_else(wrong)?;
        nanos = nanos.checked_add(part).ok_or_else(wrong)?;
        rest = behind;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_nanos(nanos)) }
}

/// The nanoseconds of the first number with its unit, and what follows it.
fn duration_part(text: &str) -> Option<(u64, &str)> {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let (unit, behind) = rest.split_at(rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len()));
    let (_, nanos) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    Some((multiply(number, *nanos)?, behind))
}

/// Reads `64KiB`, `10 MB`, `1.5G`; a bare number is refused.
///
/// Errors: [`Kind::Usage`].
pub fn size(text: &str) -> Result<u64> {
    if is_number(text) {
        return Err(invalid("size", text, "a number with a unit").with_hint(format!("did you mean {text}MiB?")));
    }
    size_value(text).ok_or_else(|| {
        invalid("size", text, "a number with a unit, such as 64KiB or 1.5GB")
            .with_hint("units are B, KB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024)")
    })
}

fn size_value(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let unit = unit.trim_start();
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    multiply(number, *bytes)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.parse::<f64>().is_ok() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// A decimal number of units, exactly; what is finer than one is cut off. None past 64 bits.
fn multiply(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum = u128::from(whole).checked_mul(u128::from(unit))?;
    let mut place = u128::from(unit);
    for digit in fraction.bytes() {
        place /= 10;
        sum += place * u128::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
    }
    u64::try_from(sum).ok()
}

/// A duration as `duration` reads it: for manuals, listings and messages.
pub fn format_duration(duration: Duration) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let millis = duration.as_millis();
    match units.iter().find(|(_, size)| millis > 0 && millis.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", millis / size),
        None => "0".to_string(),
    }
}

fn invalid(what: &str, text: &str, expected: &str) -> Error {
    Error::new(Kind::Usage, format!("{what} {text:?}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_what_go_reads_and_days() {
        let table = [
            ("0", 0),
            ("0s", 0),
            ("1ns", 1),
            ("50ms", 50_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1m0.5s", 60_500_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("2d", 172_800_000_000_000),
            ("1d12h", 129_600_000_000_000),
            ("2w", 1_209_600_000_000_000),
            ("1y", 365 * 86_400_000_000_000),
        ];
        for (text, nanos) in table {
            assert_eq!(duration(text).unwrap(), Duration::from_nanos(nanos), "{text}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_asked_back() {
        for text in ["10", "1.5", "00"] {
            let error = duration(text).unwrap_err();
            assert_eq!(error.hint(), Some(format!("did you mean {text}s?").as_str()));
        }
    }

    #[test]
    fn anything_else_is_refused_as_a_duration() {
        for text in ["", "s", "-1s", "+1s", "1 s", "1S", "1W", "1h30", ".s", "1..5s", "1e3s", "99999999999d", "ten"] {
            let error = duration(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{text}");
            assert!(error.message().starts_with(&format!("duration {text:?}: expected ")), "{error}");
        }
    }

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["0", "50ms", "1s", "90s", "5m", "2d", "10s"] {
            assert_eq!(format_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn a_size_knows_both_kinds_of_prefixes() {
        let table = [
            ("0B", 0),
            ("10B", 10),
            ("1KB", 1000),
            ("1KiB", 1024),
            ("1k", 1024),
            ("64 MiB", 64 << 20),
            ("1.5GB", 1_500_000_000),
            ("2gib", 2 << 30),
        ];
        for (text, bytes) in table {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "10", "MB", "-1MB", "1XB", "99999999TiB"] {
            assert_eq!(size(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
