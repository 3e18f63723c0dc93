//! `litestream databases`: what the configuration comes to, without secrets.

use crate::cmd::print::Table;
use crate::cmd::{Given, Status, files};
use crate::error::Result;

pub fn run(given: &Given, as_json: bool) -> Result<Status> {
    let config = given.config()?;
    let mut table = Table::new(&["path", "replica"]);
    for database in files::expand(&config)? {
        table.row([database.path.display().to_string(), database.replica.url.clone()]);
    }
    table.print(as_json)?;
    Ok(0)
}
