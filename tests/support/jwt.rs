//! An operator, an account and a user, as `nsc` would make them, for servers that want JWTs.

use nkeys::KeyPair;
use serde_json::{Value, json};

pub struct Authority {
    /// What the server's configuration needs.
    pub config: String,
    pub jwt: String,
    pub seed: String,
    account: KeyPair,
}

pub fn authority() -> Authority {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let operator_jwt = token(&operator, &operator, json!({"type": "operator", "version": 2}));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let claims = json!({"type": "account", "version": 2, "limits": limits});
    let account_jwt = token(&operator, &account, claims.clone());
    // JetStream in operator mode wants a system account, which has no JetStream itself.
    let system = KeyPair::new_account();
    let system_jwt = token(&operator, &system, json!({"type": "account", "version": 2, "limits": no_store(claims)}));
    let (id, system) = (account.public_key(), system.public_key());
    Authority {
        config: format!(
            "operator: {operator_jwt}\nresolver: MEMORY\nsystem_account: {system}\n\
             resolver_preload: {{ {id}: {account_jwt}, {system}: {system_jwt} }}"
        ),
        jwt: token(&account, &user, permissions()),
        seed: user.seed().expect("a seed"),
        account,
    }
}

fn permissions() -> Value {
    json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1})
}

fn no_store(claims: Value) -> Value {
    let mut limits = claims["limits"].clone();
    for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
        limits[key] = json!(0);
    }
    limits
}

impl Authority {
    /// The text of a credentials file.
    pub fn creds(&self) -> String {
        creds(&self.jwt, &self.seed)
    }

    /// The same for another user of the account, who may log in until `end` (in seconds since 1970).
    pub fn creds_until(&self, end: u64) -> String {
        let user = KeyPair::new_user();
        creds(&token_until(&self.account, &user, permissions(), Some(end)), &user.seed().expect("a seed"))
    }
}

fn creds(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

fn token(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    token_until(issuer, subject, nats, None)
}

fn token_until(issuer: &KeyPair, subject: &KeyPair, nats: Value, end: Option<u64>) -> String {
    let mut claims = json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": "test", "nats": nats,
    });
    if let Some(end) = end {
        claims["exp"] = json!(end);
    }
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let signed = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).expect("sign");
    format!("{signed}.{}", base64(&signature))
}

/// For URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}
