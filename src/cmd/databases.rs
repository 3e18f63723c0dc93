//! `litestream databases`: what the configuration comes to, without secrets.

use crate::cmd::print::{Cell, Table};
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

fn cells(database: &Database) -> [Cell; 7] {
    let (login, tls) = match &database.replica.target {
        Target::Nats(options) => (login(&options.login), options.tls.wanted),
        Target::Dir(_) => (None, false),
    };
    [
        database.path.display().to_string().into(),
        database.replica.url.clone().into(),
        login.into(),
        tls.into(),
        units::duration_text(database.replica.sync_interval).into(),
        database.snapshot_interval.map(units::duration_text).into(),
        database.snapshot_retention.map(units::duration_text).into(),
    ]
}

/// Who logs in, and by what; none for nobody.
fn login(login: &Login) -> Option<String> {
    Some(match login {
        Login::None => return None,
        Login::UserPassword { user, .. } => format!("{user}:{MASK}"),
        Login::Token(_) => format!("token {MASK}"),
        Login::Jwt { .. } => format!("jwt {MASK}"),
        Login::Creds(path) => format!("creds {}", path.display()),
        Login::Nkey(seed) => format!("nkey {}", nkey::public_key(seed.reveal()).unwrap_or_else(|_| MASK.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_login_is_told_without_its_secret() {
        let secret = || Secret::new("canary");
        let table = [
            (Login::None, None),
            (Login::UserPassword { user: "app".to_string(), password: secret() }, Some("app:***")),
            (Login::Token(secret()), Some("token ***")),
            (Login::Jwt { jwt: secret(), seed: secret() }, Some("jwt ***")),
            (Login::Creds("/etc/app.creds".into()), Some("creds /etc/app.creds")),
            (Login::Nkey(secret()), Some("nkey ***")),
        ];
        for (given, expected) in table {
            assert_eq!(login(&given).as_deref(), expected);
        }
    }
}
