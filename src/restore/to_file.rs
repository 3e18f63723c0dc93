//! A restore into a file.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;

use crate::backup::origin::check_place;
use crate::clock::Clock;
use crate::directory::{free_bytes, parent};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::format::key::SnapshotKey;
use crate::format::origin::DatabaseOrigin;
use crate::format::plan::Plan;
use crate::printable::human_size;
use crate::restore::StartProgress;
use crate::restore::apply::{self, RestoreResult, ResumableRestore};
use crate::restore::output_file::TemporaryFile;
use crate::restore::page_output::PageOutput;
use crate::restore::plan::{load_plan, log_warnings, retry_with_new_plan};
use crate::restore::request::RestoreRequest;
use crate::source;
use crate::store::Store;

/// Restores what `wanted` asks for into `output`, which is made.
pub fn to_file(
    store: &dyn Store,
    clock: &dyn Clock,
    url: &str,
    wanted: &RestoreRequest,
    output: &Path,
    progress: StartProgress<'_>,
) -> Result<RestoreResult> {
    retry_with_new_plan(
        || load_plan(store, clock, url, wanted),
        |plan| {
            log_warnings(&plan);
            // It takes its name only when it is complete, verified and durable.
            let (temporary, result, _) = beside(store, clock, &plan, wanted, output, progress)?;
            temporary.publish(output, wanted.overwrite)?;
            Ok(result)
        },
    )
}

/// Restores into a file beside the output, whole and verified.
pub fn beside(
    store: &dyn Store,
    clock: &dyn Clock,
    plan: &Plan,
    wanted: &RestoreRequest,
    output: &Path,
    progress: StartProgress<'_>,
) -> Result<(TemporaryFile, RestoreResult, ResumableRestore)> {
    let mut temporary = TemporaryFile::create(output, "restore")?;
    let mode = Cell::new(None);
    let mut show = progress(plan.bytes());
    let pages = CancellableOutput {
        file: &temporary.file,
        directory: parent(output),
        request: wanted,
        url: store.url(),
        mode: &mode,
    };
    let result = apply::restore_resumable(store, clock, plan, pages, &mut show);
    drop(show);
    let (result, end) = result.with_context(|| format!("restore {}", output.display()))?;
    mode.get().into_iter().for_each(|mode| temporary.prefer_mode(mode));
    if let Some(how) = wanted.check {
        fault::point("restore.check")?;
        source::check_integrity(&temporary.path, how).with_context(|| format!("restore {}", output.display()))?;
    }
    wanted.check_cancelled()?;
    Ok((temporary, result, end))
}

/// Errors: of kind `Database`, if `bytes` are more than what is free. What is free may not be known.
pub(super) fn room_for(bytes: u64, free: Option<u64>, directory: &Path) -> Result<()> {
    match free {
        Some(free) if free < bytes => {
            let what = format!(
                "directory {}: expected room for {}, found {}",
                directory.display(),
                human_size(bytes),
                human_size(free)
            );
            Err(Error::new(Kind::Database, what).with_hint("free some space there, or restore to another disk with -o"))
        }
        _ => Ok(()),
    }
}

/// The file that is restored to, for as long as it is wanted.
struct CancellableOutput<'a> {
    file: &'a File,
    directory: &'a Path,
    request: &'a RestoreRequest,
    url: &'a str,
    /// The permissions that the live database had, once they are known.
    mode: &'a Cell<Option<u32>>,
}

impl PageOutput for CancellableOutput<'_> {
    fn write_at(&mut self, at: u64, page: &[u8]) -> Result<()> {
        self.request.check_cancelled()?;
        PageOutput::write_at(&mut self.file, at, page)
    }

    fn read_at(&mut self, at: u64, page: &mut [u8]) -> Result<()> {
        PageOutput::read_at(&mut self.file, at, page)
    }

    fn set_len(&mut self, bytes: u64) -> Result<()> {
        PageOutput::set_len(&mut self.file, bytes)
    }

    fn expect(&mut self, bytes: u64) -> Result<()> {
        room_for(bytes, free_bytes(self.directory), self.directory)
    }

    fn origin(&mut self, origin: &DatabaseOrigin, snapshot: &SnapshotKey) -> Result<()> {
        self.mode.set(Some(origin.facts.mode).filter(|mode| *mode != 0));
        match &self.request.database {
            Some(database) => check_place(self.url, snapshot, origin, database),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::restore::flaky_store::{FlakyStore, RealClock};
    use crate::restore::output_file::Overwrite;
    use crate::restore::plan::MAX_PLANS;

    #[test]
    fn a_disk_without_room_is_refused_with_both_figures() {
        let check = |free| room_for(2_000_000, free, Path::new("/srv"));
        let error = check(Some(1_999_999)).unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Database, "directory /srv: expected room for 2.0 MB, found 2.0 MB")
        );
        assert!(check(Some(2_000_000)).is_ok() && check(None).is_ok());
    }

    #[test]
    fn restore_replans_a_few_times_if_objects_disappear() {
        let directory = std::env::temp_dir().join(format!("litestream-vanishing-{}", std::process::id()));
        let (database, output) = (directory.join("a.db"), directory.join("out.db"));
        fs::create_dir_all(&directory).unwrap();
        let store = FlakyStore::with_snapshot_of(&database, &directory.join("store"));
        for (gone, works) in [(MAX_PLANS - 1, true), (MAX_PLANS, false)] {
            store.failures_left.set(gone);
            let wanted = RestoreRequest { overwrite: Overwrite::Always, ..RestoreRequest::LATEST };
            let result = to_file(&store, &RealClock, "there", &wanted, &output, &|_| Box::new(|_| ()));
            assert_eq!(result.map_err(|error| error.kind()).err(), (!works).then_some(Kind::NotFound));
            assert_eq!(store.failures_left.get(), 0);
        }
        assert_eq!(fs::read(&output).unwrap(), fs::read(&database).unwrap());
        fs::remove_dir_all(&directory).unwrap();
    }
}
