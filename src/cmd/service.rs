//! What others may ask of a running `replicate` over NATS: who it is, where its databases stand, and that it stores now what
//! is committed now.
//!
//! A client on one server learns nothing of the replicas on another: a request is about what goes over its connection.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::event_loop::EventLoop;
use crate::cmd::print::{Cell, Table};
use crate::cmd::status;
use crate::cmd::supervisor::Supervisor;
use crate::host::host_name;
use crate::log;
use crate::printable::printable;
use crate::replica::replicator::{Replicator, ReplicatorStatus};
use crate::store::service::{Endpoint, RequestError, ServiceDescription, ServiceRequest};
use crate::wakeup;

/// So long after the link has passed a request on it is looked for: the crate has it a moment later.
const ATTENTION_TIME: Duration = Duration::from_millis(20);
const ATTENTIVE_INTERVAL: Duration = Duration::from_millis(1);
/// A sync that is not done by then is answered with the reason. Nothing is taken back: it goes on.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests that wait at the same time.
const MAX_WAITING: usize = 1000;
/// What details and rows may take of the room of a description.
const DETAILS_SHARE: usize = 4;

/// The requests of a run.
pub struct ServiceRequests {
    attentive_until: Option<Instant>,
    waiting: Vec<WaitingSync>,
}

/// A sync whose end a client waits for.
struct WaitingSync {
    request: ServiceRequest,
    wanted: Option<String>,
    /// Each database, with the round that must be finished.
    rounds: Vec<(String, u64)>,
    deadline: Instant,
}

impl ServiceRequests {
    /// Before the first connection is opened.
    pub fn start(supervisor: &mut Supervisor) -> Option<ServiceRequests> {
        match wakeup::waker() {
            Ok((waker, receiver)) => {
                supervisor.event_loop.wake = Some(receiver);
                supervisor.pool().listen(waker, SystemClock.utc_now());
                Some(ServiceRequests { attentive_until: None, waiting: Vec::new() })
            }
            Err(error) => {
                log::info("not shown as a NATS service").field("error", error).emit();
                None
            }
        }
    }

    /// When to look again, if sooner than for other reasons.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.attentive_until.map(|_| now + ATTENTIVE_INTERVAL)
    }

    /// Answers what can be answered. To be called on each turn of the loop.
    pub fn poll(&mut self, now: Instant, supervisor: &mut Supervisor) {
        if supervisor.event_loop.wake.as_ref().is_some_and(|receiver| receiver.drain()) {
            self.attentive_until = Some(now + ATTENTION_TIME);
        }
        self.attentive_until = self.attentive_until.filter(|until| now < *until);
        let (event_loop, pool) = supervisor.event_loop_and_pool();
        let replicators = &event_loop.replicators;
        let requests = pool.requests(now, &|connection, room| description(replicators, connection, room));
        for request in requests {
            if let Some(answer) = self.accept(request.clone(), event_loop, now) {
                pool.answer(now, &request, answer);
            }
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|sync| match sync.result(event_loop, now) {
            Some(answer) => {
                pool.answer(SystemClock.now(), &sync.request, answer);
                false
            }
            None => true,
        });
        self.waiting = waiting;
    }

    /// The answer to a request; none if it comes later.
    fn accept(
        &mut self,
        request: ServiceRequest,
        event_loop: &mut EventLoop,
        now: Instant,
    ) -> Option<Result<String, RequestError>> {
        let wanted = match wanted(&request.payload) {
            Ok(wanted) => wanted,
            Err(error) => return Some(Err(error)),
        };
        let rows = rows(&event_loop.replicators, &request.connection, wanted.as_deref());
        if let (true, Some(wanted)) = (rows.is_empty(), &wanted) {
            let text = format!("{}: not replicated over this connection", printable(wanted));
            return Some(Err(RequestError::new(404, text)));
        }
        if request.endpoint == Endpoint::Status {
            return Some(Ok(to_json(rows).to_string()));
        }
        if self.waiting.len() >= MAX_WAITING {
            return Some(Err(RequestError::new(429, "too many requests wait for a sync")));
        }
        let chosen = |replicator: &&mut Replicator| rows.iter().any(|row| row.database == replicator.name());
        let rounds = event_loop.replicators.iter_mut().filter(chosen);
        let rounds = rounds.map(|one| (one.name().to_string(), one.request_sync())).collect();
        self.waiting.push(WaitingSync { request, wanted, rounds, deadline: now + SYNC_TIMEOUT });
        None
    }

    /// The run comes to its end: what is still asked for is answered, and nothing more is heard.
    pub fn stop(self, supervisor: &mut Supervisor) {
        supervisor.event_loop.wake = None;
        let pool = supervisor.pool();
        for sync in &self.waiting {
            pool.answer(SystemClock.now(), &sync.request, Err(RequestError::new(503, "replicate is stopping")));
        }
        pool.stop_listening();
    }
}

impl WaitingSync {
    fn result(&self, event_loop: &EventLoop, now: Instant) -> Option<Result<String, RequestError>> {
        let mut done = true;
        for (name, round) in &self.rounds {
            let Some(replicator) = event_loop.replicators.iter().find(|one| one.name() == name) else {
                return Some(Err(RequestError::new(410, format!("{}: no longer replicated", printable(name)))));
            };
            if replicator.has_failures() {
                return Some(Err(RequestError::new(503, problem(replicator))));
            }
            let finished = replicator.finished_syncs() >= *round;
            if !finished && now >= self.deadline {
                let text = format!("not stored within {}s: {}", SYNC_TIMEOUT.as_secs(), problem(replicator));
                return Some(Err(RequestError::new(504, text)));
            }
            done &= finished;
        }
        let rows = || rows(&event_loop.replicators, &self.request.connection, self.wanted.as_deref());
        done.then(|| Ok(to_json(rows()).to_string()))
    }
}

fn problem(replicator: &Replicator) -> String {
    let status = ReplicatorStatus::worst(replicator.statuses(&SystemClock));
    let problem = status.problem.unwrap_or_else(|| "it is still being stored".to_string());
    format!("{}: {}", printable(replicator.name()), printable(&problem))
}

/// Which database a request is about, by its path or by the URL of its replica; none: about each.
fn wanted(payload: &[u8]) -> Result<Option<String>, RequestError> {
    let bad = |what: &str| RequestError::new(400, format!("expected a path or {{\"database\": PATH}}, found {what}"));
    let text = std::str::from_utf8(payload).map_err(|_| bad("bytes that are no text"))?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('{') {
        return Ok(Some(text.to_string()));
    }
    let value: Value = serde_json::from_str(text).map_err(|_| bad("no JSON"))?;
    let fields = value.as_object().ok_or_else(|| bad("no object"))?;
    match (fields.get("database").and_then(Value::as_str), fields.len()) {
        (Some(database), 1) => Ok(Some(database.to_string())),
        (None, 0) => Ok(None),
        _ => Err(bad("other fields")),
    }
}

/// One replica of one database.
struct ReplicaRow {
    database: String,
    url: String,
    status: ReplicatorStatus,
}

impl ReplicaRow {
    fn state(&self) -> String {
        let ReplicatorStatus { problem, lag, .. } = &self.status;
        match (problem, lag) {
            (Some(problem), _) => format!("problem: {problem}"),
            (None, None) => "starting".to_string(),
            (None, Some(Duration::ZERO)) => "ok".to_string(),
            (None, Some(_)) => "behind".to_string(),
        }
    }

    /// Bytes of WAL that were copied and are not stored; none where they cannot be counted.
    fn bytes_behind(&self) -> Option<u64> {
        let ReplicatorStatus { stored, copied, lag, .. } = &self.status;
        if *lag == Some(Duration::ZERO) {
            return Some(0);
        }
        let (stored, copied) = ((*stored)?, (*copied)?);
        let same = stored.generation == copied.generation && stored.wal_position.index == copied.wal_position.index;
        same.then(|| copied.wal_position.offset.get().saturating_sub(stored.wal_position.offset.get()))
    }

    fn seconds_behind(&self) -> Option<u64> {
        self.status.lag.map(|lag| lag.as_secs() + u64::from(lag.subsec_nanos() > 0))
    }

    /// The same columns as those of `status`.
    fn cells(&self) -> [Cell; 8] {
        [
            self.database.as_str().into(),
            self.state().into(),
            self.status.stored.map(|position| position.to_string()).into(),
            self.status.all_stored_at.map(|time| time.to_string()).into(),
            self.bytes_behind().into(),
            self.url.as_str().into(),
            self.seconds_behind().into(),
            self.status.recipients.map(|recipients| recipients as u64).into(),
        ]
    }
}

/// The replicas that are reached over `connection`, of one database or of each.
fn rows(replicators: &[Replicator], connection: &str, wanted: Option<&str>) -> Vec<ReplicaRow> {
    let rows = replicators.iter().flat_map(|replicator| {
        let stores = replicator.stores().zip(replicator.statuses(&SystemClock));
        let here = stores.filter(|(store, _)| store.connection() == Some(connection));
        here.map(|(store, status)| ReplicaRow {
            database: replicator.name().to_string(),
            url: store.url().to_string(),
            status,
        })
    });
    rows.filter(|row| wanted.is_none_or(|wanted| row.database == wanted || row.url == wanted)).collect()
}

fn to_json(rows: Vec<ReplicaRow>) -> Value {
    let mut table = Table::new(&status::COLUMNS);
    rows.iter().for_each(|row| table.row(row.cells()));
    table.to_json()
}

/// What is shown of the replicas on a connection, in at most so many bytes: those with a problem first.
fn description(replicators: &[Replicator], connection: &str, room: usize) -> ServiceDescription {
    describe(rows(replicators, connection, None), room)
}

fn describe(mut rows: Vec<ReplicaRow>, room: usize) -> ServiceDescription {
    let problems = rows.iter().filter(|row| row.status.problem.is_some()).count();
    let lag = rows.iter().filter_map(ReplicaRow::seconds_behind).max();
    let text = |value: &dyn ToString| value.to_string();
    let mut metadata = vec![
        ("host", host_name()),
        ("pid", text(&std::process::id())),
        ("replicas", text(&rows.len())),
        ("problems", text(&problems)),
    ];
    metadata.extend(lag.map(|lag| ("seconds_behind", text(&lag))));
    rows.sort_by_key(|row| (row.status.problem.is_none(), row.status.lag == Some(Duration::ZERO)));
    let detail = |row: &ReplicaRow| {
        let position = row.status.stored.map_or_else(|| "-".to_string(), |position| position.to_string());
        let lag = row.seconds_behind().map_or_else(|| "?".to_string(), |lag| lag.to_string());
        let text = format!("{} {position} {lag}s {}", row.url, printable(&row.state()));
        (printable(&row.database).into_owned(), text)
    };
    let details = fitting(rows.iter().map(detail), room / DETAILS_SHARE, |(name, text)| name.len() + text.len());
    let count = rows.len();
    let Value::Array(all) = to_json(rows) else { return ServiceDescription::default() };
    let shown = fitting(all.into_iter(), room / DETAILS_SHARE, |row| row.to_string().len());
    let omitted = count - shown.len();
    let data = json!({ "replicas": count, "problems": problems, "rows": shown, "omitted": omitted });
    ServiceDescription {
        metadata: metadata.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        details: details.into_iter().collect(),
        data: data.to_string(),
    }
}

/// As many of them as fit into `room` bytes.
fn fitting<T>(all: impl Iterator<Item = T>, mut room: usize, size: impl Fn(&T) -> usize) -> Vec<T> {
    /// Quotes, commas and the like around each.
    const AROUND: usize = 16;
    all.map_while(|one| {
        room = room.checked_sub(size(&one) + AROUND)?;
        Some(one)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::position::{Generation, Offset, Position, WalPosition};

    fn row(database: &str, lag: Option<u64>, problem: Option<&str>) -> ReplicaRow {
        let at = |offset| Position {
            generation: Generation::new(1),
            wal_position: WalPosition { index: 0, offset: Offset::new(offset).unwrap() },
        };
        let status = ReplicatorStatus {
            stored: Some(at(4152)),
            copied: Some(at(8272)),
            lag: lag.map(Duration::from_millis),
            problem: problem.map(str::to_string),
            ..ReplicatorStatus::default()
        };
        ReplicaRow { database: database.to_string(), url: "nats://h/b/p".to_string(), status }
    }

    #[test]
    fn a_request_names_a_database_or_none() {
        let found = |payload: &str| wanted(payload.as_bytes()).map_err(|error| error.code);
        assert_eq!(found(" \n"), Ok(None));
        assert_eq!(found("{}"), Ok(None));
        assert_eq!(found("/var/lib/app.db\n"), Ok(Some("/var/lib/app.db".to_string())));
        assert_eq!(found(r#"{"database": "/a.db"}"#), Ok(Some("/a.db".to_string())));
        for payload in ["{", r#"{"databas": "/a.db"}"#, r#"{"database": 3}"#, r#"{"database": "/a.db", "x": 1}"#] {
            assert_eq!(found(payload), Err(400), "{payload}");
        }
        assert_eq!(wanted(b"\xff").map_err(|error| error.code), Err(400));
    }

    #[test]
    fn a_row_says_what_is_known_and_no_more() {
        for (row, state, behind, seconds) in [
            (row("/a", Some(0), None), "ok", Some(0), Some(0)),
            (row("/a", Some(1), None), "behind", Some(4120), Some(1)),
            (row("/a", None, None), "starting", Some(4120), None),
            (row("/a", Some(2000), Some("no answer")), "problem: no answer", Some(4120), Some(2)),
        ] {
            assert_eq!((row.state().as_str(), row.bytes_behind(), row.seconds_behind()), (state, behind, seconds));
        }
        let mut other = row("/a", Some(9), None);
        other.status.copied = other.status.copied.map(|at| Position { generation: Generation::new(2), ..at });
        assert_eq!(other.bytes_behind(), None);
    }

    #[test]
    fn a_description_keeps_to_its_room_and_shows_problems_first() {
        let rows = || {
            let fine = (0..1000).map(|n| row(&format!("/data/{n}.db"), Some(0), None));
            fine.chain([row("/data/ill.db", Some(9000), Some("no answer"))]).collect::<Vec<_>>()
        };
        for room in [0, 1000, 32 << 10, 512 << 10] {
            let found = describe(rows(), room);
            let details: usize = found.details.iter().map(|(name, text)| name.len() + text.len()).sum();
            assert!(details <= room && found.data.len() <= room + 100, "{room}: {details}, {}", found.data.len());
            assert_eq!(found.metadata["replicas"], "1001");
            assert_eq!(found.metadata["problems"], "1");
            assert_eq!(found.metadata["seconds_behind"], "9");
            let data: Value = serde_json::from_str(&found.data).unwrap();
            let shown = data["rows"].as_array().unwrap();
            assert_eq!(data["omitted"].as_u64().unwrap() as usize + shown.len(), 1001);
            if room >= 1000 {
                assert_eq!(shown[0]["status"], "problem: no answer");
                assert!(found.details["/data/ill.db"].contains("9s problem: no answer"));
            }
        }
    }
}
