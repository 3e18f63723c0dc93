//! How often snapshots are taken, how long they stay, and what of the history is kept.

use std::time::Duration;

use super::document::Section;
use super::{keep, keys, units};
use crate::error::Result;
use crate::format::keep::Keep;

/// How often a snapshot is taken. Litestream's default.
pub const DEFAULT_SNAPSHOT_INTERVAL: Duration = Duration::from_secs(86_400);
/// How long a backup stays restorable to any moment. Litestream's default.
pub const DEFAULT_SNAPSHOT_RETENTION: Duration = Duration::from_secs(86_400);
/// A retention of less than this is warned about.
const SHORT_RETENTION: Duration = Duration::from_secs(3600);

/// How often snapshots are taken, and how long they stay.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SnapshotPolicy {
    /// None: only at the start of a generation.
    pub interval: Option<Duration>,
    /// None: for ever.
    pub retention: Option<Duration>,
    /// Instead of `retention`, which is then the longest of this.
    pub keep: Option<Keep>,
    /// The interval was not left to the default.
    interval_is_set: bool,
}

impl Default for SnapshotPolicy {
    fn default() -> SnapshotPolicy {
        SnapshotPolicy {
            interval: Some(DEFAULT_SNAPSHOT_INTERVAL),
            retention: Some(DEFAULT_SNAPSHOT_RETENTION),
            keep: None,
            interval_is_set: false,
        }
    }
}

/// The top level's `snapshot`, and `retention.enabled`, which Litestream keeps beside it.
pub(super) fn read_top_level(root: &Section<'_>, warnings: &mut Vec<String>) -> Result<SnapshotPolicy> {
    let own = root.section("snapshot")?;
    let mut policy = SnapshotPolicy::read((root, own.as_ref()), SnapshotPolicy::default(), warnings)?;
    if let Some(retention) = root.section("retention")? {
        warnings.extend(keys::check(&retention, &keys::RETENTION)?);
        if retention.bool("enabled")? == Some(false) {
            if policy.keep.is_some() {
                return Err(root.error("keep", "works only where retention is enabled"));
            }
            policy.retention = None;
        }
    }
    Ok(policy)
}

impl SnapshotPolicy {
    /// What the section says with its `snapshot` and its `keep`, over `below`.
    pub(super) fn read(
        (section, own): (&Section<'_>, Option<&Section<'_>>),
        below: SnapshotPolicy,
        warnings: &mut Vec<String>,
    ) -> Result<SnapshotPolicy> {
        let mut policy = below;
        let keep = section.section("keep")?;
        if let Some(keep) = &keep {
            policy.keep = Some(keep::from_section(keep, warnings)?);
        }
        if let Some(own) = own {
            policy.read_snapshot(own, warnings)?;
            if own.has("retention") && keep.is_some() {
                return Err(own.error("retention", "works only without keep, which says how long anything is kept"));
            }
        }
        if let Some(keep) = policy.keep {
            policy.retention = Some(keep.longest());
        }
        Ok(policy)
    }

    /// Where history is thinned out, a snapshot is taken when a restore would have to read too much, unless it is told when.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval.filter(|_| self.keep.is_none() || self.interval_is_set)
    }

    fn read_snapshot(&mut self, own: &Section<'_>, warnings: &mut Vec<String>) -> Result<()> {
        warnings.extend(keys::check(own, &keys::SNAPSHOT)?);
        if let Some(interval) = own.duration("interval")? {
            (self.interval, self.interval_is_set) = (Some(interval).filter(|interval| !interval.is_zero()), true);
        }
        let Some(retention) = own.duration("retention")? else { return Ok(()) };
        if retention.is_zero() {
            return Err(own
                .error("retention", "expected more than 0, found 0")
                .with_hint("to keep everything, write retention: { enabled: false } at the top level"));
        }
        if retention < SHORT_RETENTION {
            warnings.push(short(own, "retention", retention));
        }
        // It is nearer than a policy of the top level.
        (self.retention, self.keep) = (Some(retention), None);
        Ok(())
    }
}

fn short(section: &Section<'_>, key: &str, retention: Duration) -> String {
    let line = section.line(key).map(|line| format!("line {line}: ")).unwrap_or_default();
    let text = units::format_duration(retention);
    format!("{line}{key}: states older than {text} cannot be restored; did you mean 1h or more?")
}
