//! Subjects that lead elsewhere than usual: another JetStream domain, the API of another account, an inbox of one's own.

use crate::error::{Error, Result};
use crate::store::nats::options::NatsOptions;

pub(super) const DOMAIN: &str = "js-domain";
pub(super) const API_PREFIX: &str = "js-api-prefix";
pub(super) const INBOX_PREFIX: &str = "inbox-prefix";

/// What one place says of them. The values are checked.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct Subjects {
    pub domain: Option<String>,
    pub api_prefix: Option<String>,
    pub inbox_prefix: Option<String>,
}

impl Subjects {
    /// What the subjects of the JetStream API begin with, if it says so.
    ///
    /// Errors: it names two of them.
    pub fn api(&self) -> Result<Option<String>> {
        match (&self.domain, &self.api_prefix) {
            (Some(_), Some(_)) => Err(Error::usage(format!("expected {DOMAIN} or {API_PREFIX}, found both"))),
            (Some(domain), None) => Ok(Some(NatsOptions::domain_api(domain))),
            (None, prefix) => Ok(prefix.clone()),
        }
    }

    /// What both say.
    ///
    /// Errors: they say one thing differently.
    pub fn and(self, other: Subjects) -> Result<Subjects> {
        let same = |key: &str, one: Option<String>, other: Option<String>| match (one, other) {
            (Some(one), Some(other)) if one != other => {
                Err(Error::usage(format!("{key} is not what the query of url says")))
            }
            (one, other) => Ok(one.or(other)),
        };
        Ok(Subjects {
            domain: same(DOMAIN, self.domain, other.domain)?,
            api_prefix: same(API_PREFIX, self.api_prefix, other.api_prefix)?,
            inbox_prefix: same(INBOX_PREFIX, self.inbox_prefix, other.inbox_prefix)?,
        })
    }

    /// Sets what `key` names. False: there is no such key, or it was set before.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool> {
        let field = match key {
            DOMAIN => &mut self.domain,
            API_PREFIX => &mut self.api_prefix,
            INBOX_PREFIX => &mut self.inbox_prefix,
            _ => return Ok(false),
        };
        Ok(field.replace(check(key, value)?).is_none())
    }
}

/// The value of `key`, without a dot at its end.
///
/// Errors: no subject begins with it.
pub(super) fn check(key: &str, value: &str) -> Result<String> {
    let value = value.strip_suffix('.').unwrap_or(value);
    let token =
        |token: &str| !token.is_empty() && !token.contains(['*', '>']) && token.chars().all(|c| c.is_ascii_graphic());
    let fits = value.split('.').all(token);
    match (key, fits) {
        (DOMAIN, true) if !value.contains('.') => Ok(value.to_string()),
        (DOMAIN, _) => Err(Error::usage("expected the name of a JetStream domain, without dots, spaces and wildcards")),
        (_, true) => Ok(value.to_string()),
        (_, false) => Err(Error::usage("expected the first tokens of a subject, without spaces and wildcards")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_no_subject_begins_with_are_refused() {
        for (key, value, expected) in [
            (DOMAIN, "hub", Some("hub")),
            (DOMAIN, "a.b", None),
            (DOMAIN, "", None),
            (DOMAIN, "*", None),
            (API_PREFIX, "JS.acc.API.", Some("JS.acc.API")),
            (API_PREFIX, "$JS.acc.API", Some("$JS.acc.API")),
            (API_PREFIX, "JS..API", None),
            (INBOX_PREFIX, "_INBOX.me", Some("_INBOX.me")),
            (INBOX_PREFIX, "_I >", None),
            (INBOX_PREFIX, "a.>", None),
        ] {
            assert_eq!(check(key, value).ok().as_deref(), expected, "{key} {value:?}");
        }
    }

    #[test]
    fn domain_and_prefix_exclude_each_other_and_must_agree() {
        let hub = Subjects { domain: Some("hub".into()), ..Subjects::default() };
        assert_eq!(hub.api().unwrap().as_deref(), Some("$JS.hub.API"));
        let both = Subjects { api_prefix: Some("JS".into()), ..hub.clone() };
        assert_eq!(both.api().unwrap_err().message(), "expected js-domain or js-api-prefix, found both");
        assert_eq!(hub.clone().and(hub.clone()).unwrap(), hub);
        let other = Subjects { domain: Some("leaf".into()), ..Subjects::default() };
        assert!(hub.and(other).unwrap_err().message().starts_with("js-domain is not"));
    }
}
