//! `litestream databases`: what the configuration comes to, without secrets.

use std::time::Duration;

use crate::cmd::print::Table;
use crate::cmd::{Given, Status, files};
use crate::config::{self, Database, units};
use crate::error::Result;
use crate::store::Target;
use crate::store::nats::nkey;
use crate::store::nats::options::Login;

/// In place of what nobody is shown.
const MASK: &str = "***";

/// Errors: also those of files that the configuration names, when the table has been printed.
pub fn run(given: &Given, as_json: bool) -> Result<Status> {
    let config = given.config()?;
    let mut table = Table::new(&["path", "replica", "login", "tls", "sync", "snapshot", "retention"]);
    for database in files::expand(&config)? {
        table.row(cells(&database));
    }
    table.print(as_json)?;
    config::check::config(&config)?;
    Ok(0)
}

fn cells(database: &Database) -> [String; 7] {
    let (login, tls) = match &database.replica.target {
        Target::Nats(options) => (login(&options.login), options.tls.wanted),
        Target::Dir(_) => (none(), false),
    };
    [
        database.path.display().to_string(),
        database.replica.url.clone(),
        login,
        if tls { "yes".to_string() } else { none() },
        units::duration_text(database.replica.sync_interval),
        interval(database.snapshot_interval),
        interval(database.snapshot_retention),
    ]
}

fn none() -> String {
    "-".to_string()
}

fn interval(duration: Option<Duration>) -> String {
    duration.map_or_else(none, units::duration_text)
}

/// Who logs in, and by what.
fn login(login: &Login) -> String {
    match login {
        Login::None => none(),
        Login::UserPassword { user, .. } => format!("{user}:{MASK}"),
        Login::Token(_) => format!("token {MASK}"),
        Login::Jwt { .. } => format!("jwt {MASK}"),
        Login::Creds(path) => format!("creds {}", path.display()),
        Login::Nkey(seed) => format!("nkey {}", nkey::public_key(seed.reveal()).unwrap_or_else(|_| MASK.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_login_is_told_without_its_secret() {
        let secret = || Secret::new("canary");
        let table = [
            (Login::None, "-"),
            (Login::UserPassword { user: "app".to_string(), password: secret() }, "app:***"),
            (Login::Token(secret()), "token ***"),
            (Login::Jwt { jwt: secret(), seed: secret() }, "jwt ***"),
            (Login::Creds("/etc/app.creds".into()), "creds /etc/app.creds"),
            (Login::Nkey(secret()), "nkey ***"),
        ];
        for (given, expected) in table {
            assert_eq!(login(&given), expected);
        }
    }
}
