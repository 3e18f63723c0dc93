//! Exactly one way to log in, out of what one place (a section, a URL, the environment) says.

use std::path::PathBuf;

use super::surroundings::Surroundings;
use super::tree::Section;
use super::url::User;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::store::nats::nkey;
use crate::store::nats::options::Login;

/// All that one place says about logging in, under the names that it has there.
#[derive(Default)]
struct Said {
    user: Option<User>,
    username: Option<Secret>,
    password: Option<Secret>,
    token: Option<Secret>,
    jwt: Option<Secret>,
    seed: Option<Secret>,
    creds: Option<PathBuf>,
    nkey: Option<Secret>,
}

/// The login that a section and the URL in it ask for; none if they leave it open.
pub(super) fn of_section(
    section: &Section<'_>,
    user: Option<User>,
    around: &Surroundings<'_>,
) -> Result<Option<Login>> {
    let creds = section.text("creds")?.map(|path| around.absolute(&path)).transpose();
    let said = Said {
        user,
        username: section.secret("username")?,
        password: section.secret("password")?,
        token: section.secret("token")?,
        jwt: section.secret("jwt")?,
        seed: section.secret("seed")?,
        creds: section.at("creds", creds)?,
        nkey: section.secret("nkey")?,
    };
    section.at_whole(decide(said, &SECTION_NAMES))
}

/// The login of a URL on the command line.
pub(super) fn of_url(user: Option<User>) -> Option<Login> {
    user.map(user_login)
}

/// The login that the environment gives, where `user` comes from `NATS_URL`.
pub(super) fn of_environment(user: Option<User>, around: &Surroundings<'_>) -> Result<Option<Login>> {
    let creds = around.var("NATS_CREDS").map(|path| around.absolute(&path)).transpose()?;
    let said = Said {
        user,
        username: around.var("NATS_USER").map(Secret::new),
        password: around.var("NATS_PASSWORD").map(Secret::new),
        token: around.var("NATS_TOKEN").map(Secret::new),
        creds,
        nkey: around.var("NATS_NKEY").map(|text| seed_or_file(text, around)).transpose()?,
        ..Said::default()
    };
    decide(said, &ENVIRONMENT_NAMES)
}

/// `NATS_NKEY` names a file, as for the nats CLI; a seed itself is taken too.
fn seed_or_file(text: String, around: &Surroundings<'_>) -> Result<Secret> {
    if nkey::public_key(&text).is_ok() {
        return Ok(Secret::new(text));
    }
    around.absolute(&text).and_then(|path| (around.seed_file)(&path)).map_err(|error| error.context("NATS_NKEY"))
}

/// How a place calls the parts of a login.
struct Names {
    user: &'static str,
    username: &'static str,
    password: &'static str,
    token: &'static str,
    jwt: &'static str,
    seed: &'static str,
    creds: &'static str,
    nkey: &'static str,
}

const SECTION_NAMES: Names = Names {
    user: "the login in url",
    username: "username",
    password: "password",
    token: "token",
    jwt: "jwt",
    seed: "seed",
    creds: "creds",
    nkey: "nkey",
};

const ENVIRONMENT_NAMES: Names = Names {
    user: "the login in NATS_URL",
    username: "NATS_USER",
    password: "NATS_PASSWORD",
    token: "NATS_TOKEN",
    jwt: "jwt",
    seed: "seed",
    creds: "NATS_CREDS",
    nkey: "NATS_NKEY",
};

/// Errors: two ways at once, or half of a pair; both name the keys.
fn decide(said: Said, names: &Names) -> Result<Option<Login>> {
    only_one(&said, names)?;
    if let Some(user) = said.user {
        return Ok(Some(user_login(user)));
    }
    if let Some((user, password)) = pair((said.username, names.username), (said.password, names.password))? {
        return Ok(Some(Login::UserPassword { user: user.reveal().to_string(), password }));
    }
    if let Some(nkey) = said.nkey {
        return nkey_login(nkey, said.seed).map(Some);
    }
    if let Some((jwt, seed)) = pair((said.jwt, names.jwt), (said.seed, names.seed))? {
        return Ok(Some(Login::Jwt { jwt, seed }));
    }
    Ok(said.token.map(Login::Token).or(said.creds.map(Login::Creds)))
}

fn user_login(user: User) -> Login {
    match user {
        User::Password(user, password) => Login::UserPassword { user, password },
        User::Token(token) => Login::Token(token),
    }
}

fn only_one(said: &Said, names: &Names) -> Result<()> {
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
        return Err(usage(format!("expected one way to log in, found {}: {}", given.len(), given.join(" and "))));
    }
    Ok(())
}

/// Both or neither.
pub(super) fn pair<T>(first: (Option<T>, &str), second: (Option<T>, &str)) -> Result<Option<(T, T)>> {
    match (first, second) {
        ((Some(first), _), (Some(second), _)) => Ok(Some((first, second))),
        ((None, _), (None, _)) => Ok(None),
        ((Some(_), given), (None, missing)) | ((None, missing), (Some(_), given)) => {
            Err(usage(format!("{given} is given without {missing}")))
        }
    }
}

/// `nkey` is the seed, or the public key with the seed beside it.
fn nkey_login(nkey: Secret, seed: Option<Secret>) -> Result<Login> {
    let is_public = nkey.reveal().starts_with('U');
    match seed {
        None if is_public => {
            Err(usage("nkey is a public key, given without its seed").with_hint("add seed, which begins with SU"))
        }
        None => {
            nkey::public_key(nkey.reveal()).map_err(|error| error.context("nkey"))?;
            Ok(Login::Nkey(nkey))
        }
        Some(seed) => {
            let public = nkey::public_key(seed.reveal()).map_err(|error| error.context("seed"))?;
            if public != nkey.reveal() && seed != nkey {
                return Err(usage("nkey and seed are not of one key pair")
                    .with_hint(format!("the public key of this seed is {public}")));
            }
            Ok(Login::Nkey(seed))
        }
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}
