//! `litestream databases`: what the configuration comes to, without secrets.

use crate::cmd::print::{Cell, Table};
use crate::cmd::{Context, ErrorCollector, ExitStatus, find_databases};
use crate::config::{self, Database, units};
use crate::error::Result;
use crate::store::StoreTarget;
use crate::store::nats::nkey;
use crate::store::nats::options::Credentials;

/// In place of what nobody is shown.
const MASK: &str = "***";

/// Errors: also those of files that the configuration names, and of paths that cannot be replicated, when the table has been
/// printed.
pub fn run(ctx: &Context, as_json: bool) -> Result<ExitStatus> {
    let config = ctx.config()?;
    let mut table = Table::new(&["path", "replica", "login", "tls", "sync", "snapshot", "retention"]);
    let found = find_databases::find_databases(&config)?;
    for database in found.databases.iter().flat_map(Database::each_replica) {
        table.row(row(&database));
    }
    table.print(as_json)?;
    let mut errors = ErrorCollector::default();
    found.unusable.into_iter().for_each(|one| errors.push(one.error));
    if let Err(error) = config::check_files::config(&config) {
        errors.push(error);
    }
    errors.into_result().map(|()| 0)
}

fn row(database: &Database) -> [Cell; 7] {
    let (login, tls) = match &database.replica.target {
        StoreTarget::Nats(options) => (login(&options.login), options.tls.required),
        StoreTarget::Dir(_) => (None, false),
    };
    [
        database.path.display().to_string().into(),
        database.replica.url.clone().into(),
        login.into(),
        tls.into(),
        units::format_duration(database.replica.sync_interval).into(),
        database.snapshot_interval.map(units::format_duration).into(),
        database.snapshot_retention.map(units::format_duration).into(),
    ]
}

/// Who logs in, and by what; none for nobody.
fn login(login: &Credentials) -> Option<String> {
    Some(match login {
        Credentials::None => return None,
        Credentials::UserPassword { user, .. } => format!("{user}:{MASK}"),
        Credentials::Token(_) => format!("token {MASK}"),
        Credentials::Jwt { .. } => format!("jwt {MASK}"),
        Credentials::Creds(path) => format!("creds {}", path.display()),
        Credentials::Nkey(seed) => {
            format!("nkey {}", nkey::public_key(seed.reveal()).unwrap_or_else(|_| MASK.to_string()))
        }
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
            (Credentials::None, None),
            (Credentials::UserPassword { user: "app".to_string(), password: secret() }, Some("app:***")),
            (Credentials::Token(secret()), Some("token ***")),
            (Credentials::Jwt { jwt: secret(), seed: secret() }, Some("jwt ***")),
            (Credentials::Creds("/etc/app.creds".into()), Some("creds /etc/app.creds")),
            (Credentials::Nkey(secret()), Some("nkey ***")),
        ];
        for (ctx, expected) in table {
            assert_eq!(login(&ctx).as_deref(), expected);
        }
    }
}
