//! Restoring one database as the options of `restore` say, and what came of it.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{self, RestoreTarget};
use crate::clock::Clock;
use crate::cmd::clock::{SystemClock, zone_offset};
use crate::cmd::connect;
use crate::cmd::progress::progress_line;
use crate::config::Replica;
use crate::error::{Kind, Result, ResultExt};
use crate::format::moment::Moment;
use crate::format::plan::{Plan, PlanTarget};
use crate::log;
use crate::printable::{human_size, printable};
use crate::restore::apply::RestoreResult;
use crate::restore::output_file::{Overwrite, refuse_existing};
use crate::restore::plan::{load_plan, log_warnings};
use crate::restore::request::RestoreRequest;
use crate::restore::to_file::to_file;
use crate::store::ConnectionPool;

/// What a restore came to.
pub enum Outcome {
    Restored {
        result: RestoreResult,
        seconds: f64,
    },
    Planned(Plan),
    /// There was nothing to do, and why.
    Skipped(&'static str),
}

impl Outcome {
    /// One line for people.
    pub fn line(&self, name: &str) -> String {
        let name = printable(name);
        match self {
            Outcome::Restored { result, seconds } => format!(
                "restored {name}: {} at {} ({}), {} read in {seconds:.1}s\n",
                human_size(result.bytes),
                result.position,
                result.time,
                human_size(result.read),
            ),
            Outcome::Planned(plan) => {
                let total = human_size(plan.bytes());
                format!("would restore {name}: {total} in {} objects\n", plan.segments.len() + 1)
            }
            Outcome::Skipped(why) => format!("skipped {name}: {why}\n"),
        }
    }

    pub fn json(&self, output: Option<&Path>) -> Value {
        let path = output.map(|path| path.display().to_string());
        match self {
            Outcome::Restored { result, seconds } => json!({
                "path": path,
                "position": result.position.to_string(),
                "time": result.time.to_string(),
                "bytes": result.bytes,
                "read": result.read,
                "seconds": (seconds * 1000.0).round() / 1000.0,
            }),
            Outcome::Planned(plan) => json!({
                "path": path,
                "objects": plan.segments.len() + 1,
                "read": plan.bytes(),
            }),
            Outcome::Skipped(why) => json!({ "path": path, "skipped": why }),
        }
    }
}

/// Restores one database as the options say, or plans it. Only a plan may leave the output open.
pub fn restore_one(
    replica: &Replica,
    options: &cli::RestoreOptions,
    database: Option<&Path>,
    output: Option<&Path>,
    pool: &mut ConnectionPool,
) -> Result<Outcome> {
    let wanted = request(options, database)?;
    if let Some(output) = output {
        if options.if_db_not_exists && output.exists() {
            log::info("database exists, nothing to do").field("path", output.display()).emit();
            return Ok(Outcome::Skipped("the database exists"));
        }
        if !options.dry_run {
            refuse_existing(output, wanted.overwrite)?;
        }
    }
    match restore_or_follow(replica, options.dry_run, &wanted, output, pool) {
        Err(error) if options.if_replica_exists && matches!(error.kind(), Kind::NothingToRestore | Kind::NotFound) => {
            log::info("no backup, nothing to do").field("replica", &replica.url).field("detail", error).emit();
            Ok(Outcome::Skipped("nothing is stored"))
        }
        other => other,
    }
}

fn restore_or_follow(
    replica: &Replica,
    dry_run: bool,
    wanted: &RestoreRequest,
    output: Option<&Path>,
    pool: &mut ConnectionPool,
) -> Result<Outcome> {
    let store = connect(replica, pool)?;
    let Some(output) = output.filter(|_| !dry_run) else {
        let plan = load_plan(&*store, &SystemClock, &replica.url, wanted)?;
        log_warnings(&plan);
        return Ok(Outcome::Planned(plan));
    };
    let begun = SystemClock.now();
    let result = to_file(&*store, &SystemClock, &replica.url, wanted, output, &progress_line("restore"))?;
    if result.recipients == 0 && (store.recipients() > 0 || store.can_decrypt()) {
        log::warn("this backup is in clear, though keys of age are given").field("replica", &replica.url).emit();
    }
    Ok(Outcome::Restored { result, seconds: begun.elapsed().as_secs_f64() })
}

/// What the options ask for.
pub fn request(options: &cli::RestoreOptions, database: Option<&Path>) -> Result<RestoreRequest> {
    let resolve =
        |moment: &Moment| moment.resolve(SystemClock.utc_now(), zone_offset).with_context(|| "option -timestamp");
    Ok(RestoreRequest {
        target: match &options.target {
            RestoreTarget::Latest => PlanTarget::Latest,
            RestoreTarget::Time(moment) if options.strict => PlanTarget::Time(resolve(moment)?),
            RestoreTarget::Time(moment) => PlanTarget::AsOf(resolve(moment)?),
            RestoreTarget::Position(position) => PlanTarget::Position(*position),
        },
        generation: options.generation,
        check: options.integrity_check,
        overwrite: match (options.force, options.force_open) {
            (_, true) => Overwrite::Always,
            (true, false) => Overwrite::IfUnused,
            (false, false) => Overwrite::Never,
        },
        database: database.filter(|_| !options.allow_other_database).map(Path::to_path_buf),
        cancelled: None,
    })
}
