//! `litestream verify`: reads a whole backup back and proves that it can be restored, without leaving a file; and that
//! it equals the live database, where that is at hand. With -live, the live database is compared by its checksum alone.

use crate::cli;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_databases::Reported;
use crate::cmd::print::{Cell, Table};
use crate::cmd::progress::progress_line;
use crate::cmd::{Context, EXIT_BEHIND, ErrorCollector, ExitStatus, connect, wiring};
use crate::config::{Database, Replica};
use crate::error::{Error, Kind, Result};
use crate::restore::apply::RestoreResult;
use crate::restore::live_checksum::{CheckedLive, check_live};
use crate::restore::live_state::{LiveMatch, read_live_state};
use crate::restore::verify::{LiveComparison, VerifiedGeneration, verify};
use crate::store::ConnectionPool;

/// New ones come last: scripts count the others.
const COLUMNS: [&str; 9] = ["generation", "position", "time", "bytes", "read", "live", "replica", "database", "error"];

pub fn run(ctx: &Context, options: &cli::VerifyOptions) -> Result<ExitStatus> {
    let mut table = Table::new(&COLUMNS);
    let mut pool = ConnectionPool::default();
    let mut exit = 0;
    let mut errors = ErrorCollector::default();
    for mut asked in targets(ctx, &options.target, &mut pool)? {
        for row in asked.rows(options.live, &mut pool) {
            exit = exit.max(exit_status(&row.live));
            table.row(cells(&row, &asked));
            if let Err(error) = row.restored {
                errors.push(error.context(format!("verify {}", asked.replica.url)));
            }
        }
    }
    if !options.quiet {
        table.print(options.json)?;
    }
    errors.into_result()?;
    Ok(exit)
}

/// One replica that is to be proven.
struct VerifyRequest {
    replica: Replica,
    database: Option<Database>,
    /// There should be a database file, and there is none.
    gone: bool,
    /// Why it cannot even be looked at.
    unlisted: Option<Error>,
}

impl VerifyRequest {
    fn of(reported: Reported) -> VerifyRequest {
        let (database, gone, unlisted) = match reported {
            Reported::Configured(database) => (database, false, None),
            Reported::Gone(database) => (database, true, None),
            Reported::Unlisted(database, error) | Reported::Unusable(database, error) => (database, false, Some(error)),
        };
        VerifyRequest { replica: database.replica.clone(), database: Some(database), gone, unlisted }
    }

    /// A row for each generation, or one that says why there is none.
    fn rows(&mut self, live: bool, pool: &mut ConnectionPool) -> Vec<VerifiedGeneration> {
        let rows = match (self.unlisted.take(), &self.database) {
            (Some(error), _) => Err(error),
            (None, Some(database)) if live => compare_live(&self.replica, database, pool).map(|row| vec![row]),
            (None, database) => verify_replica(&self.replica, database.as_ref(), pool),
        };
        let mut rows = rows.unwrap_or_else(|error| vec![VerifiedGeneration::failed(None, error)]);
        if let (true, Some(newest)) = (self.gone, rows.last_mut()) {
            newest.live = LiveComparison::Gone;
        }
        rows
    }
}

fn targets(ctx: &Context, proven: &cli::VerifyTarget, pool: &mut ConnectionPool) -> Result<Vec<VerifyRequest>> {
    let reported = match proven {
        cli::VerifyTarget::Replica(url) => {
            let (replica, _) = ctx.replica(&cli::ReplicaRef::Replica(url.clone()))?;
            return Ok(vec![VerifyRequest { replica, database: None, gone: false, unlisted: None }]);
        }
        cli::VerifyTarget::Database(path) => ctx.reported(&cli::DatabaseSelection::Path(path.clone()), pool)?,
        cli::VerifyTarget::Pair(pair) => vec![Reported::Configured(ctx.explicit_database(pair)?)],
        cli::VerifyTarget::All => ctx.reported(&cli::DatabaseSelection::Configured, pool)?,
    };
    Ok(reported.into_iter().map(VerifyRequest::of).collect())
}

fn exit_status(live: &LiveComparison) -> ExitStatus {
    match live {
        LiveComparison::Unknown | LiveComparison::Equal => 0,
        LiveComparison::NotCompared(_) => EXIT_BEHIND,
        LiveComparison::Gone => Kind::Database.exit_status(),
    }
}

fn live_cell(live: &LiveComparison) -> Cell {
    match live {
        LiveComparison::Unknown => Cell::Unknown,
        LiveComparison::Equal => "equal".into(),
        LiveComparison::NotCompared(why) => format!("not compared: {why}").into(),
        LiveComparison::Gone => "missing: there is no database file, only its backup".into(),
    }
}

fn cells(row: &VerifiedGeneration, asked: &VerifyRequest) -> [Cell; 9] {
    let restored = row.restored.as_ref().ok().and_then(Option::as_ref);
    [
        row.generation.map(|generation| generation.to_string()).into(),
        restored.map(|restored| restored.position.to_string()).into(),
        restored.map(|restored| restored.time.to_string()).into(),
        restored.map(|restored| restored.bytes).into(),
        restored.map(|restored| restored.read).into(),
        live_cell(&row.live),
        asked.replica.url.clone().into(),
        asked.database.as_ref().map(|database| database.path.display().to_string()).into(),
        row.restored.as_ref().err().map(Error::to_string).into(),
    ]
}

fn verify_replica(
    replica: &Replica,
    database: Option<&Database>,
    pool: &mut ConnectionPool,
) -> Result<Vec<VerifiedGeneration>> {
    let store = connect(replica, pool)?;
    let live = match database {
        Some(database) => read_live_state(&wiring::live_database(database), &store, &SystemClock)?,
        None => LiveMatch::NoFile,
    };
    verify(&*store, &SystemClock, &live, &progress_line("verify"))
}

/// Reads the live database, and nothing of the backup but its end.
fn compare_live(replica: &Replica, database: &Database, pool: &mut ConnectionPool) -> Result<VerifiedGeneration> {
    let store = connect(replica, pool)?;
    let CheckedLive { end, bytes, live } = check_live(&wiring::live_database(database), &store, &SystemClock)?;
    let restored =
        end.map(|end| RestoreResult { position: end.position(), time: end.time, bytes, read: 0, recipients: 0 });
    Ok(VerifiedGeneration { generation: end.map(|end| end.chain_end.generation), restored: Ok(restored), live })
}
