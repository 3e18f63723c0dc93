//! The metrics of the copies that a process keeps up to date.

use crate::cmd::follow_member::MemberStatus;
use crate::cmd::metrics::{Metric, seconds, unlabelled};

pub const METRICS: [Metric<MemberStatus>; 8] = [
    ("copy_up", "gauge", "1 if the copy is there and there is no problem, 0 otherwise", |s| {
        unlabelled(f64::from(u8::from(s.problem.is_none() && s.position.is_some())))
    }),
    ("copy_behind_seconds", "gauge", "how much older the copy is than what is stored; absent while unknown", |s| {
        s.behind.map(|behind| unlabelled(behind.as_secs_f64())).unwrap_or_default()
    }),
    ("copy_behind_bytes", "gauge", "bytes that are stored and not in the copy; absent while unknown", |s| {
        s.bytes_behind.map(|bytes| unlabelled(bytes as f64)).unwrap_or_default()
    }),
    ("copy_last_contact_timestamp_seconds", "gauge", "time when the store answered last", |s| {
        s.contact.map(|time| unlabelled(seconds(time))).unwrap_or_default()
    }),
    ("copy_wal_index", "gauge", "index of the WAL up to which the copy goes", |s| {
        s.position.map(|at| unlabelled(f64::from(at.wal_position.index))).unwrap_or_default()
    }),
    ("copy_wal_offset_bytes", "gauge", "offset in that WAL up to which the copy goes", |s| {
        s.position.map(|at| unlabelled(at.wal_position.offset.get() as f64)).unwrap_or_default()
    }),
    ("copy_applied_total", "counter", "transactions that applied segments", |s| unlabelled(s.counters.applied as f64)),
    ("copy_made_total", "counter", "how often the copy was made from a snapshot", |s| {
        unlabelled(s.counters.made as f64)
    }),
];
