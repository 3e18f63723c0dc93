//! What a database says of itself, by which it is known again after a move.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rusqlite::Connection;

use crate::format::origin::{DatabaseFacts, DatabaseOrigin, SchemaSample};
use crate::host::host_name;

/// The database of `connection`, whose file is `real`. What cannot be read is left out: it is only needed to tell
/// databases apart.
pub fn origin(connection: &Connection, real: &Path) -> DatabaseOrigin {
    // SQLite gives these as signed numbers of 32 bits.
    let number =
        |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).unwrap_or_default() as u32;
    let facts = DatabaseFacts {
        mode: std::fs::metadata(real).map_or(0, |file| file.permissions().mode() & 0o7777),
        application_id: number("application_id"),
        user_version: number("user_version"),
        schema_version: number("schema_version"),
        schema: schema(connection).ok(),
    };
    DatabaseOrigin::new(&host_name(), real, facts)
}

/// Whether the file that was stored is still there, on this host, and is not the live one: then it was not moved.
pub fn is_another_file(stored: &DatabaseOrigin, live: &DatabaseOrigin) -> bool {
    let file = |path: &str| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    stored.host == live.host && file(&stored.path).is_some_and(|stored| Some(stored) != file(&live.path))
}

fn schema(connection: &Connection) -> rusqlite::Result<SchemaSample> {
    let mut statement = connection.prepare("SELECT type, name FROM sqlite_schema")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(SchemaSample::new(rows.iter().map(|(sort, name)| (sort.as_str(), name.as_str()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_are_those_of_the_header_and_the_schema() {
        let directory = std::env::temp_dir().join(format!("litestream-facts-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.db");
        let database = Connection::open(&path).unwrap();
        database
            .execute_batch("PRAGMA application_id=-2; PRAGMA user_version=9; CREATE TABLE a(x PRIMARY KEY); CREATE VIEW b AS SELECT 1")
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let origin = origin(&database, &path);
        let names = [("table", "a"), ("view", "b")];
        let expected = DatabaseFacts {
            mode: 0o640,
            application_id: u32::MAX - 1,
            user_version: 9,
            schema_version: 2,
            schema: Some(SchemaSample::new(names.into_iter())),
        };
        assert_eq!((origin.path.as_str(), &origin.facts), (path.to_str().unwrap(), &expected));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
