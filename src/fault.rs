//! Named points at which a test run can die or fail. An ordinary build has nothing here but an empty inline function.
//!
//! In a build with the feature `fault`, `LITESTREAM_FAULT` says what happens at the n-th point that is reached, counted
//! from 1: `die:N` (the process is killed), `fail:N` (an error, once), `fail:N:NAME` (only points of that name count) or
//! `fail:0:NAME` (an error at each of them).
//! `LITESTREAM_FAULT_LOG=FILE` appends the name of each point as it is reached.

#[cfg(not(feature = "fault"))]
use crate::error::Result;

/// A step that touches a file, SQLite or the store: name it `object.step`.
#[cfg(not(feature = "fault"))]
#[inline(always)]
pub fn point(_name: &'static str) -> Result<()> {
    Ok(())
}

#[cfg(feature = "fault")]
pub use enabled::point;

#[cfg(feature = "fault")]
mod enabled {
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::error::{Error, Kind, Result};

    struct FaultPlan {
        die: bool,
        nth: u64,
        name_filter: Option<String>,
    }

    static PLAN: OnceLock<Option<FaultPlan>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    fn plan() -> Option<FaultPlan> {
        let text = std::env::var("LITESTREAM_FAULT").ok()?;
        let mut fields = text.splitn(3, ':');
        let die = fields.next()? == "die";
        let nth = fields.next()?.parse().ok()?;
        Some(FaultPlan { die, nth, name_filter: fields.next().map(str::to_string) })
    }

    fn record(name: &str) {
        if let Ok(path) = std::env::var("LITESTREAM_FAULT_LOG")
            && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
        {
            let _ = writeln!(file, "{name}");
        }
    }

    /// Dies, fails or passes, as `LITESTREAM_FAULT` says.
    pub fn point(name: &'static str) -> Result<()> {
        record(name);
        let Some(plan) = PLAN.get_or_init(plan) else { return Ok(()) };
        if plan.name_filter.as_deref().is_some_and(|only| only != name) {
            return Ok(());
        }
        if plan.nth > 0 && HITS.fetch_add(1, Ordering::SeqCst) + 1 != plan.nth {
            return Ok(());
        }
        if plan.die {
            // SAFETY: kill(2) of ourselves; SIGKILL leaves no chance to clean up, which is the point.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        Err(Error::new(Kind::StoreUnreachable, format!("fault injected at {name}")))
    }
}
