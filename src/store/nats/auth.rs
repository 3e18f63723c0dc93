//! A login in the crate's terms.

use std::fs;
use std::io;

use nkeys::KeyPair;

use super::options::Credentials;
use crate::error::{Error, Kind, Result};

/// The crate's options for `login`, with everything else as the crate has it.
///
/// Errors: of kind `StoreRefused`, if a seed or a credentials file cannot be used. No secret is in the message.
pub fn options(login: &Credentials) -> Result<nats::Options> {
    match login {
        Credentials::None => Ok(nats::Options::new()),
        Credentials::UserPassword { user, password } => Ok(nats::Options::with_user_pass(user, password.reveal())),
        Credentials::Token(token) => Ok(nats::Options::with_token(token.reveal())),
        Credentials::Jwt { jwt, seed } => {
            let (jwt, key) = (jwt.clone(), key_pair("seed", seed.reveal())?);
            Ok(nats::Options::with_jwt(move || Ok(jwt.reveal().to_string()), move |nonce| sign(&key, nonce)))
        }
        Credentials::Creds(path) => {
            // The crate reads it at each connect; this only says early, and by name, what is wrong with it.
            let text = fs::read_to_string(path);
            text.and_then(|text| looks_like_creds(&text))
                .map_err(|e| Error::io(Kind::StoreRefused, format!("read {}", path.display()), &e))?;
            Ok(nats::Options::with_credentials(path))
        }
        Credentials::Nkey(seed) => {
            let key = key_pair("nkey", seed.reveal())?;
            Ok(nats::Options::with_nkey(&key.public_key(), move |nonce| sign(&key, nonce)))
        }
    }
}

fn looks_like_creds(text: &str) -> io::Result<()> {
    let whole = ["BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"].iter().all(|mark| text.contains(mark));
    if whole { Ok(()) } else { Err(io::Error::other("expected a user JWT and a seed, found neither or one")) }
}

fn key_pair(key: &str, seed: &str) -> Result<KeyPair> {
    KeyPair::from_seed(seed.trim()).map_err(|_| {
        Error::new(Kind::StoreRefused, format!("{key}: expected the seed of a user nkey (SU…), found none"))
    })
}

/// A seed can always sign; an empty signature is refused by the server and says so.
fn sign(key: &KeyPair, nonce: &[u8]) -> Vec<u8> {
    key.sign(nonce).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_bad_seed_is_named_but_not_shown() {
        let error = options(&Credentials::Nkey(Secret::new("SUnotaseed"))).map(drop).unwrap_err();
        assert_eq!(error.message(), "nkey: expected the seed of a user nkey (SU…), found none");
        let login = Credentials::Creds("/nonexistent/u.creds".into());
        let error = options(&login).map(drop).unwrap_err();
        assert_eq!(error.message(), "read /nonexistent/u.creds: no such file or directory");
    }
}
