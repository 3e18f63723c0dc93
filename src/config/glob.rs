//! File name patterns: `*`, `?` and `[a-z]`, as in the shell.

/// Whether the whole name fits. A pattern with an open bracket fits nothing; see [`is_valid`].
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = pattern.get(first.len_utf8()..).unwrap_or_default();
    let mut letters = name.chars();
    match first {
        '*' => name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..])),
        '?' => letters.next().is_some() && matches(rest, letters.as_str()),
        '[' => match (char_class(rest), letters.next()) {
            (Some((class, rest)), Some(letter)) => class_contains(class, letter) && matches(rest, letters.as_str()),
            _ => false,
        },
        _ => letters.next() == Some(first) && matches(rest, letters.as_str()),
    }
}

/// Whether the pattern can be read.
pub(super) fn is_valid(pattern: &str) -> bool {
    let mut rest = pattern;
    while let Some((_, behind)) = rest.split_once('[') {
        match char_class(behind) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    !pattern.is_empty() && !pattern.contains('/')
}

/// The inside of the brackets, and what follows them. A `]` that comes first is a letter.
fn char_class(text: &str) -> Option<(&str, &str)> {
    let skipped = text.len() - text.trim_start_matches(['^', '!']).len();
    let first = text.get(skipped..)?.chars().next()?.len_utf8();
    let end = skipped + first + text.get(skipped + first..)?.find(']')?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

fn class_contains(class: &str, letter: char) -> bool {
    let negated = class.starts_with(['^', '!']);
    let mut letters = class.trim_start_matches(['^', '!']).chars().peekable();
    let mut found = false;
    while let Some(from) = letters.next() {
        let mut ahead = letters.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(to)) => {
                found |= (from..=to).contains(&letter);
                letters = ahead;
            }
            _ => found |= from == letter,
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_the_shell() {
        let table = [
            ("*.db", "a.db", true),
            ("*.db", ".db", true),
            ("*.db", "a.db-wal", false),
            ("*", "", true),
            ("?.db", "a.db", true),
            ("?.db", "ab.db", false),
            ("?", "é", true),
            ("[a-c]*", "bee", true),
            ("[a-c]*", "dee", false),
            ("[!a-c]*", "dee", true),
            ("[^a]", "a", false),
            ("[]]", "]", true),
            ("a[-z]", "a-", true),
            ("**b", "aab", true),
            ("a", "", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_told() {
        for (pattern, valid) in
            [("*.db", true), ("[a]", true), ("[a", false), ("", false), ("a/b", false), ("[]", false)]
        {
            assert_eq!(is_valid(pattern), valid, "{pattern}");
        }
    }
}
