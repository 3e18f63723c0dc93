//! User nkeys: the key pair of a seed.

use nkeys::{KeyPair, KeyPairType};

use crate::error::{Error, Kind, Result};

/// The public key (`U…`) of a user's seed (`SU…`).
///
/// Errors: [`Kind::Usage`] for anything else, without repeating it: it may be a secret with a slip in it.
pub fn public_key(seed: &str) -> Result<String> {
    let refused = |why| Error::new(Kind::Usage, why).with_hint("a user's seed has 58 characters and begins with SU");
    let pair = KeyPair::from_seed(seed).map_err(|_| refused("expected a user's seed, found something else"))?;
    match pair.key_pair_type() {
        KeyPairType::User => Ok(pair.public_key()),
        _ => Err(refused("expected a user's seed, found that of another role")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_users_seed_has_a_public_key_here() {
        let user = KeyPair::new_user();
        assert_eq!(public_key(&user.seed().unwrap()).unwrap(), user.public_key());
        let account = KeyPair::new_account().seed().unwrap();
        for text in ["", "SU", "seed", account.as_str(), user.public_key().as_str()] {
            let error = public_key(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(text.len() < 5 || !error.to_string().contains(text));
        }
    }
}
