//! `litestream status REPLICA_URL`: what the process that replicates there says of it, asked over NATS.

use std::task::Poll;

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::print::{Cell, Table};
use crate::cmd::status::COLUMNS;
use crate::cmd::{EXIT_BEHIND, ExitStatus, connect, environment};
use crate::config;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::interrupt;
use crate::secret::Secret;
use crate::store::blocking::MAX_SLEEP;
use crate::store::service::Endpoint;
use crate::store::{ConnectionPool, LiveWriter, Store, Writer};

pub fn run(url: &Secret, as_json: bool) -> Result<ExitStatus> {
    let replica = config::replica_from_url(url.reveal(), &environment)?;
    config::check_files::replica(&replica)?;
    let mut pool = ConnectionPool::default();
    let store = connect(&replica, &mut pool)?;
    let answer = query_replicator(&*store).with_context(|| replica.url.clone())?;
    let rows = rows(&answer).with_context(|| replica.url.clone())?;
    let mut table = Table::new(&COLUMNS);
    rows.iter().for_each(|row| table.row(COLUMNS.map(|name| cell(row, name))));
    table.print(as_json)?;
    Ok(rows.iter().map(exit_status).max().unwrap_or(0))
}

/// Asks the replicator of this prefix about its database.
fn query_replicator(store: &dyn Store) -> Result<Vec<u8>> {
    let writer = match find_writer(store)? {
        Writer::Live(writer) => writer,
        Writer::Nobody => {
            return Err(Error::new(Kind::StoreUnreachable, "no replicator is connected")
                .with_hint("start `litestream replicate`; `litestream list REPLICA_URL` shows what is stored"));
        }
        Writer::Unknown => {
            return Err(Error::new(Kind::StoreUnreachable, "not known whether a replicator is connected").with_hint(
                "if one is, it hangs or was stopped: look at its process; or the login may not publish to litestream.alive.>; a \
                 directory has no live process to ask",
            ));
        }
    };
    let LiveWriter { service: Some(id), database: Some(database), .. } = writer else {
        return Err(Error::new(Kind::StoreUnreachable, "the replicator cannot be asked")
            .with_hint("it is of an older version, or its configuration says service: false"));
    };
    let payload = json!({ "database": database }).to_string();
    let Some(mut question) = store.query_service(&id, Endpoint::Status, &payload) else {
        return Err(Error::new(Kind::StoreUnreachable, "the replicator cannot be asked"));
    };
    loop {
        if let Poll::Ready(answer) = question.poll(SystemClock.now())? {
            return Ok(answer);
        }
        interrupt::check()?;
        store.wait(MAX_SLEEP);
    }
}

fn find_writer(store: &dyn Store) -> Result<Writer> {
    let mut search = store.find_writers();
    search.query("");
    while !search.poll(SystemClock.now())? {
        interrupt::check()?;
        store.wait(MAX_SLEEP);
    }
    Ok(search.answers().pop().unwrap_or(Writer::Unknown))
}

/// The rows of an answer, which comes from outside.
fn rows(answer: &[u8]) -> Result<Vec<Value>> {
    let rows = serde_json::from_slice::<Vec<Value>>(answer).ok();
    let rows = rows.filter(|rows| !rows.is_empty() && rows.iter().all(Value::is_object));
    rows.ok_or_else(|| Error::new(Kind::StoreRefused, "the answer of the replicator cannot be read"))
}

fn cell(row: &Value, column: &str) -> Cell {
    match row.get(column.replace(' ', "_")) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(number) => number.as_u64().into(),
        None => Cell::Unknown,
    }
}

fn exit_status(row: &Value) -> ExitStatus {
    match row.get("status").and_then(Value::as_str) {
        Some("ok") => 0,
        Some("behind" | "starting") => EXIT_BEHIND,
        _ => Kind::StoreUnreachable.exit_status(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_far_as_it_is_one() {
        let text = br#"[{"database": "/a.db", "status": "behind", "behind": 4120, "position": null, "more": []}]"#;
        let rows = rows(text).unwrap();
        assert_eq!(cell(&rows[0], "database"), Cell::from("/a.db"));
        assert_eq!(cell(&rows[0], "behind"), Cell::from(4120));
        assert_eq!((cell(&rows[0], "position"), cell(&rows[0], "seconds behind")), (Cell::Unknown, Cell::Unknown));
        assert_eq!(exit_status(&rows[0]), EXIT_BEHIND);
        for junk in [&b"[]"[..], b"{}", b"[1]", b"", b"ok"] {
            assert!(super::rows(junk).is_err());
        }
    }

    #[test]
    fn only_ok_is_ok() {
        for (status, expected) in [("ok", 0), ("starting", 1), ("behind", 1), ("problem: no answer", 4), ("new", 4)] {
            assert_eq!(exit_status(&json!({ "status": status })), expected);
        }
        assert_eq!(exit_status(&json!({})), 4);
    }
}
