//! The metrics file: Prometheus' text format, for the node exporter's textfile collector.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::directory::{Directory, parent, set_mode};
use crate::error::{Error, Kind, Result};
use crate::format::time::Timestamp;
use crate::replica::replicator::ReplicatorStatus;
use crate::store::traffic::{Purpose, Traffic};

/// Between two metrics files: the node exporter is asked four times a minute at most.
pub const METRICS_INTERVAL: Duration = Duration::from_secs(10);

/// A metric of each database: name, type, help, and its values, each with one more label or none.
pub type Metric<S> = (&'static str, &'static str, &'static str, fn(&S) -> Vec<(Label, f64)>);
pub type Label = Option<(&'static str, String)>;

const METRICS: [Metric<ReplicatorStatus>; 11] = [
    ("up", "gauge", "1 if there is no problem, 0 otherwise", |s| unlabelled(f64::from(u8::from(s.problem.is_none())))),
    ("lag_seconds", "gauge", "age of the oldest commit that is not stored; absent while unknown", |s| {
        s.lag.map(|lag| unlabelled(lag.as_secs_f64())).unwrap_or_default()
    }),
    ("last_success_timestamp_seconds", "gauge", "time when everything committed was last known to be stored", |s| {
        s.all_stored_at.map(|time| unlabelled(seconds(time))).unwrap_or_default()
    }),
    ("stored_wal_index", "gauge", "index of the WAL up to which everything is stored", |s| {
        s.stored.map(|at| unlabelled(f64::from(at.wal_position.index))).unwrap_or_default()
    }),
    ("stored_wal_offset_bytes", "gauge", "offset in that WAL up to which everything is stored", |s| {
        s.stored.map(|at| unlabelled(at.wal_position.offset.get() as f64)).unwrap_or_default()
    }),
    ("generation_info", "gauge", "current generation, as a label", |s| {
        s.stored.map(|at| vec![(Some(("generation", at.generation.to_string())), 1.0)]).unwrap_or_default()
    }),
    ("objects_total", "counter", "objects stored", |s| unlabelled(s.objects as f64)),
    ("stored_bytes_total", "counter", "bytes stored", |s| unlabelled(s.bytes as f64)),
    ("wal_bytes", "gauge", "bytes of frames in the WAL", |s| unlabelled(s.wal_bytes as f64)),
    ("errors_total", "counter", "errors by kind", |s| {
        s.counters.errors.iter().map(|(kind, count)| (Some(("kind", kind.to_string())), *count as f64)).collect()
    }),
    ("generations_total", "counter", "generations started, by reason", |s| {
        s.counters.generations.iter().map(|(why, count)| (Some(("reason", why.clone())), *count as f64)).collect()
    }),
];

pub fn unlabelled(value: f64) -> Vec<(Label, f64)> {
    vec![(None, value)]
}

pub fn seconds(time: Timestamp) -> f64 {
    time.millis() as f64 / 1000.0
}

/// What has gone over each link, by the servers that it is to.
pub type Links = BTreeMap<String, Traffic>;

/// The file's text, for databases by name.
pub fn render(databases: &[(String, ReplicatorStatus)], links: &Links, now: Timestamp) -> String {
    let rows: Vec<_> = databases.iter().map(|(database, status)| (labels(database, status), status)).collect();
    render_with(&METRICS, &rows, links, now)
}

fn labels(database: &str, status: &ReplicatorStatus) -> String {
    let replica = status.replica.iter().map(|name| label("replica", name));
    std::iter::once(label("db", database)).chain(replica).collect::<Vec<_>>().join(",")
}

/// A label as it stands in the file.
pub fn label(key: &str, value: &str) -> String {
    format!("{key}=\"{}\"", escape_label(value))
}

/// The file's text, for what has these labels.
pub fn render_with<S>(metrics: &[Metric<S>], rows: &[(String, &S)], links: &Links, now: Timestamp) -> String {
    let mut text = String::new();
    for (name, kind, help, values) in metrics {
        let _ = writeln!(text, "# HELP litestream_{name} {help}\n# TYPE litestream_{name} {kind}");
        for (labels, status) in rows {
            for (more, value) in values(status) {
                let more = more.map(|(key, value)| format!(",{}", label(key, &value))).unwrap_or_default();
                let _ = writeln!(text, "litestream_{name}{{{labels}{more}}} {value}");
            }
        }
    }
    render_links(&mut text, links);
    render_written(&mut text, now);
    text
}

fn render_written(text: &mut String, now: Timestamp) {
    let name = "litestream_written_timestamp_seconds";
    let _ =
        writeln!(text, "# HELP {name} time when this file was written\n# TYPE {name} gauge\n{name} {}", seconds(now));
}

fn render_links(text: &mut String, links: &Links) {
    let name = "litestream_link_bytes_total";
    let _ = writeln!(text, "# HELP {name} bytes on the link to a server, by what they were for\n# TYPE {name} counter");
    for (server, traffic) in links {
        for (direction, bytes) in [("sent", traffic.sent), ("received", traffic.received)] {
            for purpose in Purpose::ALL {
                let labels = format!(
                    "server=\"{}\",direction=\"{direction}\",purpose=\"{}\"",
                    escape_label(server),
                    purpose.name()
                );
                let _ = writeln!(text, "{name}{{{labels}}} {}", bytes.of(purpose));
            }
        }
    }
}

fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Who reads the file is another user than who runs a service with `UMask=0077`.
const METRICS_FILE_MODE: u32 = 0o644;

/// Replaces the file: a reader sees the old or the new one whole. Not synced: after a crash it is written again.
pub fn write(path: &Path, text: &str) -> Result<()> {
    replaced(path, text).map_err(|error| Error::io(Kind::Database, format!("write metrics {}", path.display()), &error))
}

fn replaced(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    let directory = Directory::open(parent(path))?;
    let mut prefix = name.to_owned();
    prefix.push(".");
    let (temporary, mut file) = directory.create_temporary(&prefix)?;
    let mut made = || {
        file.write_all(text.as_bytes())?;
        set_mode(&file, METRICS_FILE_MODE)?;
        directory.rename(&temporary, &directory, name)
    };
    made().inspect_err(|_| drop(directory.remove(&temporary)))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::error::Kind;
    use crate::format::position::{Generation, Offset, Position, WalPosition};

    #[test]
    fn every_metric_has_its_type_and_each_database_its_line() {
        let point = WalPosition { index: 3, offset: Offset::new(4152).unwrap() };
        let mut status = ReplicatorStatus { objects: 7, bytes: 1000, wal_bytes: 8304, ..ReplicatorStatus::default() };
        status.stored = Some(Position { generation: Generation::new(0x19), wal_position: point });
        status.lag = Some(Duration::from_millis(250));
        status.all_stored_at = Some(Timestamp::from_millis(1_500));
        status.counters.error(Kind::StoreUnreachable);
        status.counters.generation("WAL \"x\"");
        let mut link = Traffic::default();
        link.sent.add(Purpose::Snapshots, 123);
        let text = render(
            &[("/a".to_string(), status), ("/b".to_string(), ReplicatorStatus::default())],
            &BTreeMap::from([("n:4222".to_string(), link)]),
            Timestamp::default(),
        );
        for line in [
            "litestream_up{db=\"/b\"} 1",
            "litestream_lag_seconds{db=\"/a\"} 0.25",
            "litestream_last_success_timestamp_seconds{db=\"/a\"} 1.5",
            "litestream_stored_wal_index{db=\"/a\"} 3",
            "litestream_stored_wal_offset_bytes{db=\"/a\"} 4152",
            "litestream_generation_info{db=\"/a\",generation=\"0000000000000019\"} 1",
            "litestream_objects_total{db=\"/a\"} 7",
            "litestream_wal_bytes{db=\"/a\"} 8304",
            "litestream_errors_total{db=\"/a\",kind=\"unreachable\"} 1",
            "litestream_link_bytes_total{server=\"n:4222\",direction=\"sent\",purpose=\"snapshots\"} 123",
            "litestream_link_bytes_total{server=\"n:4222\",direction=\"received\",purpose=\"keep-alive\"} 0",
            "litestream_generations_total{db=\"/a\",reason=\"WAL \\\"x\\\"\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        // What is not known is not there.
        for name in ["last_success_timestamp_seconds", "lag_seconds", "stored_wal_index"] {
            assert!(!text.contains(&format!("{name}{{db=\"/b\"}}")), "{text}");
        }
        assert_eq!(text.matches("# TYPE").count(), METRICS.len() + 2);
    }
}
