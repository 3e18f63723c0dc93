//! `$VAR` and `${VAR}` in a value.

/// Where values of variables come from.
pub type LookupVar<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts the variables' values in. `$$` is a dollar; a dollar that begins no name stays as it is.
///
/// Errors: a text for the operator that names the variable, never a value.
pub(super) fn expand(text: &str, env: LookupVar<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        out.push_str(before);
        rest = expand_next(behind, &mut out, env)?;
    }
    out.push_str(rest);
    Ok(out)
}

/// Handles what follows one dollar, and returns what follows it.
fn expand_next<'a>(behind: &'a str, out: &mut String, env: LookupVar<'_>) -> Result<&'a str, String> {
    if let Some(rest) = behind.strip_prefix('$') {
        out.push('$');
        return Ok(rest);
    }
    if let Some(rest) = behind.strip_prefix('{') {
        let (name, rest) = rest.split_once('}').ok_or("a ${ is not closed; write $$ for a dollar")?;
        if name.is_empty() || name_length(name) != name.len() {
            return Err("expected the name of a variable in ${}; write $$ for a dollar".to_string());
        }
        out.push_str(&value(name, env)?);
        return Ok(rest);
    }
    let (name, rest) = behind.split_at(name_length(behind));
    match name {
        "" => out.push('$'),
        _ => out.push_str(&value(name, env)?),
    }
    Ok(rest)
}

/// How many bytes at the start are a name: a letter or `_`, then letters, digits and `_`.
fn name_length(text: &str) -> usize {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { 0 } else { end }
}

fn value(name: &str, env: LookupVar<'_>) -> Result<String, String> {
    env(name).ok_or_else(|| format!("the environment variable {name} is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("h1".to_string()),
            "_a1" => Some("#: $HOST".to_string()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_put_in_once_and_dollars_can_be_written() {
        let table = [
            ("", ""),
            ("plain", "plain"),
            ("$HOST", "h1"),
            ("a-${HOST}b", "a-h1b"),
            ("$HOST:4222/$HOST", "h1:4222/h1"),
            ("${_a1}", "#: $HOST"),
            ("[$EMPTY]", "[]"),
            ("$$HOST", "$HOST"),
            ("$$$HOST", "$h1"),
            ("pa$", "pa$"),
            ("a$ b$1c$-", "a$ b$1c$-"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        for text in ["$NOPE", "x${NOPE}y"] {
            assert_eq!(expand(text, &env), Err("the environment variable NOPE is not set".to_string()));
        }
    }

    #[test]
    fn a_broken_reference_is_refused() {
        for text in ["${HOST", "${}", "${HOST:-x}", "${1A}"] {
            assert!(expand(text, &env).is_err(), "{text}");
        }
    }
}
