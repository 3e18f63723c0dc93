//! Exactly one way to log in, out of what one place (a section, a URL, the environment) says.

use std::path::PathBuf;

use super::document::Section;
use super::environment::Environment;
use super::url::UrlCredentials;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::store::nats::nkey;
use crate::store::nats::options::Credentials;

/// All that one place says about logging in, under the names that it has there.
#[derive(Default)]
struct CredentialFields {
    user: Option<UrlCredentials>,
    username: Option<Secret>,
    password: Option<Secret>,
    token: Option<Secret>,
    jwt: Option<Secret>,
    seed: Option<Secret>,
    creds: Option<PathBuf>,
    nkey: Option<Secret>,
}

/// The login that a section and the URL in it ask for; none if they leave it open.
pub(super) fn login_in_section(
    section: &Section<'_>,
    user: Option<UrlCredentials>,
    environment: &Environment<'_>,
) -> Result<Option<Credentials>> {
    let creds = section.text("creds")?.map(|path| environment.absolute(&path)).transpose();
    let said = CredentialFields {
        user,
        username: section.secret("username")?,
        password: section.secret("password")?,
        token: section.secret("token")?,
        jwt: section.secret("jwt")?,
        seed: section.secret("seed")?,
        creds: section.with_key_context("creds", creds)?,
        nkey: section.secret("nkey")?,
    };
    section.with_section_context(resolve_login(said, &SECTION_NAMES))
}

/// The login of a URL on the command line.
pub(super) fn login_in_url(user: Option<UrlCredentials>) -> Option<Credentials> {
    user.map(from_url_credentials)
}

/// The login that the environment gives, where `user` comes from `NATS_URL`.
pub(super) fn login_in_environment(
    user: Option<UrlCredentials>,
    environment: &Environment<'_>,
) -> Result<Option<Credentials>> {
    let creds = environment.non_empty("NATS_CREDS").map(|path| environment.absolute(&path)).transpose()?;
    let said = CredentialFields {
        user,
        username: environment.non_empty("NATS_USER").map(Secret::new),
        password: environment.non_empty("NATS_PASSWORD").map(Secret::new),
        token: environment.non_empty("NATS_TOKEN").map(Secret::new),
        creds,
        nkey: environment.non_empty("NATS_NKEY").map(|text| seed_or_file(text, environment)).transpose()?,
        ..CredentialFields::default()
    };
    resolve_login(said, &ENVIRONMENT_NAMES)
}

/// What a context of the nats CLI says about logging in.
pub(super) struct ContextLogin {
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    pub jwt: Option<String>,
    pub seed: Option<String>,
    pub creds: Option<PathBuf>,
    /// A file with the seed.
    pub nkey: Option<PathBuf>,
}

/// The login of a context.
pub(super) fn login_in_context(said: ContextLogin, environment: &Environment<'_>) -> Result<Option<Credentials>> {
    let nkey = said.nkey.map(|path| (environment.seed_file)(&path)).transpose();
    let said = CredentialFields {
        user: None,
        username: said.user.map(Secret::new),
        password: said.password.map(Secret::new),
        token: said.token.map(Secret::new),
        jwt: said.jwt.map(Secret::new),
        seed: said.seed.map(Secret::new),
        creds: said.creds,
        nkey: nkey.map_err(|error| error.context(CONTEXT_NAMES.nkey))?,
    };
    resolve_login(said, &CONTEXT_NAMES)
}

/// `NATS_NKEY` names a file, as for the nats CLI; a seed itself is taken too.
fn seed_or_file(text: String, environment: &Environment<'_>) -> Result<Secret> {
    if nkey::public_key(&text).is_ok() {
        return Ok(Secret::new(text));
    }
    environment
        .absolute(&text)
        .and_then(|path| (environment.seed_file)(&path))
        .map_err(|error| error.context("NATS_NKEY"))
}

/// How a place calls the parts of a login.
struct FieldNames {
    user: &'static str,
    username: &'static str,
    password: &'static str,
    token: &'static str,
    jwt: &'static str,
    seed: &'static str,
    creds: &'static str,
    nkey: &'static str,
}

const SECTION_NAMES: FieldNames = FieldNames {
    user: "the login in url",
    username: "username",
    password: "password",
    token: "token",
    jwt: "jwt",
    seed: "seed",
    creds: "creds",
    nkey: "nkey",
};

const ENVIRONMENT_NAMES: FieldNames = FieldNames {
    user: "the login in NATS_URL",
    username: "NATS_USER",
    password: "NATS_PASSWORD",
    token: "NATS_TOKEN",
    jwt: "jwt",
    seed: "seed",
    creds: "NATS_CREDS",
    nkey: "NATS_NKEY",
};

const CONTEXT_NAMES: FieldNames = FieldNames {
    user: "the login in url",
    username: "user",
    password: "password",
    token: "token",
    jwt: "user_jwt",
    seed: "user_seed",
    creds: "creds",
    nkey: "nkey",
};

/// Errors: two ways at once, or half of a pair; both name the keys.
fn resolve_login(said: CredentialFields, names: &FieldNames) -> Result<Option<Credentials>> {
    require_one_method(&said, names)?;
    if let Some(user) = said.user {
        return Ok(Some(from_url_credentials(user)));
    }
    if let Some((user, password)) = both_or_neither((said.username, names.username), (said.password, names.password))? {
        return Ok(Some(Credentials::UserPassword { user: user.reveal().to_string(), password }));
    }
    if let Some(nkey) = said.nkey {
        return nkey_login(nkey, said.seed).map(Some);
    }
    if let Some((jwt, seed)) = both_or_neither((said.jwt, names.jwt), (said.seed, names.seed))? {
        return Ok(Some(Credentials::Jwt { jwt, seed }));
    }
    Ok(said.token.map(Credentials::Token).or(said.creds.map(Credentials::Creds)))
}

pub(super) fn from_url_credentials(user: UrlCredentials) -> Credentials {
    match user {
        UrlCredentials::Password(user, password) => Credentials::UserPassword { user, password },
        UrlCredentials::Token(token) => Credentials::Token(token),
    }
}

fn require_one_method(said: &CredentialFields, names: &FieldNames) -> Result<()> {
    let has_password = said.username.is_some() || said.password.is_some();
    let password_name = if said.username.is_some() { names.username } else { names.password };
    let has_jwt = said.jwt.is_some() || (said.seed.is_some() && said.nkey.is_none());
    let jwt_name = if said.jwt.is_some() { names.jwt } else { names.seed };
    let ways = [
        (said.user.is_some(), names.user),
        (has_password, password_name),
        (said.token.is_some(), names.token),
        (has_jwt, jwt_name),
        (said.creds.is_some(), names.creds),
        (said.nkey.is_some(), names.nkey),
    ];
    let given: Vec<&str> = ways.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect();
    if given.len() > 1 {
        return Err(Error::usage(format!("expected one login method, found {}: {}", given.len(), given.join(" and "))));
    }
    Ok(())
}

/// Both or neither.
pub(super) fn both_or_neither<T>(first: (Option<T>, &str), second: (Option<T>, &str)) -> Result<Option<(T, T)>> {
    match (first, second) {
        ((Some(first), _), (Some(second), _)) => Ok(Some((first, second))),
        ((None, _), (None, _)) => Ok(None),
        ((Some(_), given), (None, missing)) | ((None, missing), (Some(_), given)) => {
            Err(Error::usage(format!("{given} is given without {missing}")))
        }
    }
}

/// `nkey` is the seed, or the public key with the seed beside it.
fn nkey_login(nkey: Secret, seed: Option<Secret>) -> Result<Credentials> {
    let is_public = nkey.reveal().starts_with('U');
    match seed {
        None if is_public => {
            Err(Error::usage("nkey is a public key, but its seed is missing")
                .with_hint("add seed, which begins with SU"))
        }
        None => {
            nkey::public_key(nkey.reveal()).map_err(|error| error.context("nkey"))?;
            Ok(Credentials::Nkey(nkey))
        }
        Some(seed) => {
            let public = nkey::public_key(seed.reveal()).map_err(|error| error.context("seed"))?;
            if public != nkey.reveal() && seed != nkey {
                return Err(Error::usage("nkey and seed are not a key pair")
                    .with_hint(format!("the public key of this seed is {public}")));
            }
            Ok(Credentials::Nkey(seed))
        }
    }
}
