//! The machine's own SQLite as the application, with what it leaves in the WAL: commits that never happened, frames
//! without checksums, headers without frames, histories that fork.

mod support;

use support::{Bed, assert_equal, on_a_directory_only};

on_a_directory_only! {
    a_wal_with_a_header_and_no_commit_is_taken_up_whole
}

/// More than the cache holds.
const SPILLS: &str = "INSERT INTO t(body) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
                      SELECT randomblob(2000) FROM n";

/// A checkpoint has chosen the next salts, and a transaction that spilled and was rolled back has written the header with
/// them: the wal-index knows it, and there is no frame.
fn a_wal_with_a_header_and_no_commit_is_taken_up_whole(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("PRAGMA cache_size = 2");
    application.sql("INSERT INTO t(body) VALUES ('before')");
    application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    application.sql("BEGIN");
    application.sql(SPILLS);
    application.sql("ROLLBACK");
    bed.replicate_once(&database);
    application.sql("INSERT INTO t(body) VALUES ('committed')");
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
    assert_eq!(bed.generations().len(), 1);
}
