//! `litestream restore`: a database file out of a store, whole and verified, or nothing.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::{self, IntegrityCheck, Until};
use crate::clock::Clock;
use crate::cmd::clock::System;
use crate::cmd::print::{self, Table, size};
use crate::cmd::progress::Progress;
use crate::cmd::{Given, Status, connect};
use crate::config::Replica;
use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::format::listing::{LTX, Listing, is_ltx};
use crate::format::plan::{Plan, Target, plan};
use crate::log;
use crate::replica::download::list;
use crate::replica::restore::{self, Restored};
use crate::source::{self, Integrity};
use crate::store::{Pool, Store};

/// SQLite would replay these into a database that appears under the same name.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

pub fn run(given: &Given, options: &cli::Restore) -> Result<Status> {
    let (replica, database) = given.replica(&options.source)?;
    let output = options.output.clone().or(database.map(|database| database.path));
    let Some(output) = output else {
        // Only a dry run may leave the output open.
        let store = connect(&replica, &mut Pool::default())?;
        return dry_run(&plan_of(&*store, &replica, options)?, None, options.json);
    };
    if options.if_db_not_exists && output.exists() {
        log::info("database exists, nothing to do").field("path", output.display()).emit();
        return Ok(0);
    }
    if !options.dry_run && !options.force {
        refuse_existing(&output)?;
    }
    match restored(&replica, options, &output) {
        Err(error) if options.if_replica_exists && matches!(error.kind(), Kind::Nothing | Kind::NotFound) => {
            log::info("no backup, nothing to do").field("replica", &replica.url).field("detail", error).emit();
            Ok(0)
        }
        other => other,
    }
}

/// Nothing that exists is overwritten unasked, nor anything that would change what is restored.
fn refuse_existing(output: &Path) -> Result<()> {
    let mut names = vec![output.to_path_buf()];
    names.extend(SIDECARS.iter().map(|suffix| beside(output, suffix)));
    match names.iter().find(|name| name.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(name) => Err(Error::new(Kind::Database, format!("output {}: it exists", name.display()))
            .with_hint("restore to another path with -o, or replace it with -force")),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn restored(replica: &Replica, options: &cli::Restore, output: &Path) -> Result<Status> {
    let store = connect(replica, &mut Pool::default())?;
    let plan = plan_of(&*store, replica, options)?;
    for warning in &plan.warnings {
        log::warn("restore").field("detail", warning).emit();
    }
    if options.dry_run {
        return dry_run(&plan, Some(output), options.json);
    }
    let begun = System.now();
    let result = write(&*store, &plan, options, output)?;
    report(output, &result, begun.elapsed().as_secs_f64(), options.json)?;
    Ok(0)
}

fn plan_of(store: &dyn Store, replica: &Replica, options: &cli::Restore) -> Result<Plan> {
    let entries = list(store, &System, "").map_err(|e| e.context(&replica.url))?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    let target = match options.until {
        Until::Latest => Target::Latest,
        Until::Time(time) => Target::Time(time),
        Until::Position(position) => Target::Position(position),
    };
    plan(&listing, options.generation, &target).map_err(|e| {
        let e = e.context(format!("restore {}", replica.url));
        let peer = listing.is_empty() && listing.foreign_example().is_some_and(is_ltx);
        if peer { e.with_hint(LTX) } else { e }
    })
}

/// Restores into a file beside the output, which takes its name only when it is complete, verified and durable.
fn write(store: &dyn Store, plan: &Plan, options: &cli::Restore, output: &Path) -> Result<Restored> {
    let temporary = Temporary::create(output)?;
    let mut progress = Progress::new("restore", restore::bytes_of(plan), System.now());
    let mut show = |done: u64| progress.update(done, System.now());
    let result = restore::restore(store, &System, plan, &temporary.file, &mut show);
    drop(progress);
    let result = result.context(|| format!("restore {}", output.display()))?;
    temporary.sync()?;
    let check = match options.integrity_check {
        IntegrityCheck::None => None,
        IntegrityCheck::Quick => Some(Integrity::Quick),
        IntegrityCheck::Full => Some(Integrity::Full),
    };
    if let Some(how) = check {
        source::check_integrity(&temporary.path, how).context(|| format!("restore {}", output.display()))?;
    }
    temporary.publish(output, options.force)?;
    Ok(result)
}

/// A file that is removed unless it becomes the output.
struct Temporary {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temporary {
    fn create(output: &Path) -> Result<Temporary> {
        fault::point("restore.create")?;
        let name = output.file_name().ok_or_else(|| {
            Error::new(Kind::Usage, format!("output {}: it is not the name of a file", output.display()))
        })?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(".restore");
        let path = output.with_file_name(temporary);
        let failed = |e: std::io::Error| Error::io(Kind::Database, format!("create {}", path.display()), &e);
        // One name, so that what a killed restore has left is used again rather than left for good.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => file.set_len(0).map_err(failed)?,
            Err(_) => {
                return Err(Error::new(
                    Kind::Locked,
                    format!("output {}: being restored by another", output.display()),
                ));
            }
        }
        Ok(Temporary { path, file, published: false })
    }

    fn sync(&self) -> Result<()> {
        fault::point("restore.sync")?;
        self.file.sync_all().map_err(|e| Error::io(Kind::Database, format!("sync {}", self.path.display()), &e))
    }

    /// Gives the file its name. Sidecars of what was there go first: a stale WAL must never meet the new file.
    fn publish(mut self, output: &Path, force: bool) -> Result<()> {
        if !force {
            refuse_existing(output)?;
        }
        for sidecar in SIDECARS.iter().map(|suffix| beside(output, suffix)) {
            fault::point("restore.sidecar")?;
            match fs::remove_file(&sidecar) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(Kind::Database, format!("remove {}", sidecar.display()), &e));
                }
                _ => {}
            }
        }
        sync_directory(output)?;
        fault::point("restore.rename")?;
        fs::rename(&self.path, output)
            .map_err(|e| Error::io(Kind::Database, format!("rename to {}", output.display()), &e))?;
        self.published = true;
        sync_directory(output)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sync_directory(output: &Path) -> Result<()> {
    let directory = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let sync = || File::open(directory)?.sync_all();
    sync().map_err(|e| Error::io(Kind::Database, format!("sync directory {}", directory.display()), &e))
}

fn report(output: &Path, result: &Restored, seconds: f64, as_json: bool) -> Result<()> {
    if as_json {
        return print::json_value(&json!({
            "path": output.display().to_string(),
            "position": result.position.to_string(),
            "time": result.time.to_string(),
            "bytes": result.bytes,
            "read": result.read,
            "seconds": (seconds * 1000.0).round() / 1000.0,
        }));
    }
    print::text(&format!(
        "restored {}: {} at {} ({}), {} read in {seconds:.1}s\n",
        output.display(),
        size(result.bytes),
        result.position,
        result.time,
        size(result.read),
    ))
}

/// Says what would be read, and reads none of it.
fn dry_run(plan: &Plan, output: Option<&Path>, as_json: bool) -> Result<Status> {
    let mut table = Table::new(&["object", "size"]);
    for (key, size) in restore::objects_of(plan) {
        table.row([key.to_string(), size.to_string()]);
    }
    if let (Some(output), false) = (output, as_json) {
        let total = size(restore::bytes_of(plan));
        print::text(&format!("would restore {}: {total} in {} objects\n", output.display(), plan.segments.len() + 1))?;
    }
    table.print(as_json)?;
    Ok(0)
}
