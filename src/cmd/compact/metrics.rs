//! What `compact` has done, as metrics: a file in the format of those of `replicate`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cmd::compact::rows::{CompactRow, Done};
use crate::cmd::metrics::{Links, Metric, label, render_with, seconds, unlabelled, write};
use crate::format::time::Timestamp;
use crate::log;

/// Of each replica, since the start.
#[derive(Default)]
pub struct CompactMetrics(BTreeMap<String, Totals>);

#[derive(Default)]
struct Totals {
    /// The last pass went well.
    up: bool,
    last_success: Option<Timestamp>,
    merged: usize,
    rollups: usize,
    snapshots: usize,
    deleted: usize,
    bytes: u64,
    errors: u64,
}

const METRICS: [Metric<Totals>; 8] = [
    ("compact_up", "gauge", "1 if the last pass went well, 0 otherwise", |t| unlabelled(f64::from(u8::from(t.up)))),
    ("compact_last_success_timestamp_seconds", "gauge", "time when a pass last went well", |t| {
        t.last_success.map(|time| unlabelled(seconds(time))).unwrap_or_default()
    }),
    ("compact_merged_segments_total", "counter", "segments merged", |t| unlabelled(t.merged as f64)),
    ("compact_snapshots_total", "counter", "snapshots made of stored objects", |t| unlabelled(t.snapshots as f64)),
    ("compact_rollups_total", "counter", "rollups stored", |t| unlabelled(t.rollups as f64)),
    ("compact_stored_bytes_total", "counter", "bytes stored by merging and thinning", |t| unlabelled(t.bytes as f64)),
    ("compact_deleted_objects_total", "counter", "objects deleted", |t| unlabelled(t.deleted as f64)),
    ("compact_errors_total", "counter", "passes that failed", |t| unlabelled(t.errors as f64)),
];

impl CompactMetrics {
    /// A pass has ended: counts what it did, and writes the file. One that cannot be written is logged, and keeps nothing from
    /// being compacted.
    pub fn record(&mut self, rows: &[CompactRow], file: Option<&Path>, links: &Links, now: Timestamp) {
        rows.iter().for_each(|row| self.count(row, now));
        let Some(file) = file else { return };
        if let Err(error) = write(file, &self.render(links, now)) {
            log::warn("cannot write metrics").error(&error).emit();
        }
    }

    fn count(&mut self, row: &CompactRow, now: Timestamp) {
        let totals = self.0.entry(row.replica.clone()).or_default();
        totals.up = row.done.is_ok();
        match &row.done {
            Ok(Done::Compacted(done, thinned)) => {
                totals.last_success = Some(now);
                totals.merged += done.merged;
                totals.rollups += thinned.rollups;
                totals.snapshots += thinned.new_snapshots;
                totals.deleted += done.deleted + thinned.snapshots;
                totals.bytes += done.bytes + thinned.bytes;
            }
            Ok(Done::Planned(_)) => {}
            Err(_) => totals.errors += 1,
        }
    }

    fn render(&self, links: &Links, now: Timestamp) -> String {
        let rows: Vec<_> = self.0.iter().map(|(replica, totals)| (label("replica", replica), totals)).collect();
        render_with(&METRICS, &rows, links, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::replica::maintenance::MaintenanceResult;
    use crate::thinning::Thinned;

    #[test]
    fn passes_add_up_and_a_failure_shows() {
        let mut metrics = CompactMetrics::default();
        let done = MaintenanceResult { merged: 4, into: 1, bytes: 100, deleted: 3 };
        let thinned = Thinned { rollups: 2, bytes: 11, snapshots: 1, ..Thinned::default() };
        let row = |replica: &str, done| CompactRow { replica: replica.to_string(), done };
        let well = || row("n/a", Ok(Done::Compacted(done, thinned.clone())));
        let failed = |replica| row(replica, Err(Error::new(Kind::NothingToRestore, "nothing is stored")));
        metrics.record(&[well()], None, &Links::new(), Timestamp::from_millis(1_500));
        metrics.record(&[well(), failed("n/b")], None, &Links::new(), Timestamp::from_millis(2_500));
        metrics.record(&[failed("n/a")], None, &Links::new(), Timestamp::from_millis(3_500));
        let text = metrics.render(&Links::new(), Timestamp::default());
        for line in [
            "litestream_compact_up{replica=\"n/a\"} 0",
            "litestream_compact_last_success_timestamp_seconds{replica=\"n/a\"} 2.5",
            "litestream_compact_merged_segments_total{replica=\"n/a\"} 8",
            "litestream_compact_rollups_total{replica=\"n/a\"} 4",
            "litestream_compact_stored_bytes_total{replica=\"n/a\"} 222",
            "litestream_compact_deleted_objects_total{replica=\"n/a\"} 8",
            "litestream_compact_errors_total{replica=\"n/b\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        assert!(!text.contains("last_success_timestamp_seconds{replica=\"n/b\"}"), "{text}");
    }
}
