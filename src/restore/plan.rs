//! What to read for a restore, by a listing, and what to do when that is gone by then.

use crate::backup::listing::load_listing_patiently;
use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::format::listing::{LTX_WARNING, Listing, is_ltx_name};
use crate::format::plan::{Plan, plan};
use crate::log;
use crate::restore::request::RestoreRequest;
use crate::store::Store;

/// Plans are made at most so often: each one stands for minutes before retention deletes what it needs.
pub const MAX_PLANS: u32 = 4;

/// Plans what `wanted` asks for.
///
/// Errors: those of the store, with `url`; of kind `NothingToRestore` or `Corrupt` if there is no such state.
pub fn load_plan(store: &dyn Store, clock: &dyn Clock, url: &str, wanted: &RestoreRequest) -> Result<Plan> {
    let listing = load_listing_patiently(store, clock).map_err(|e| e.context(url))?;
    plan_from(&listing, url, wanted)
}

/// The same by a listing that is there.
pub fn plan_from(listing: &Listing, url: &str, wanted: &RestoreRequest) -> Result<Plan> {
    plan(listing, wanted.generation, &wanted.target).map_err(|e| {
        let e = e.context(format!("restore {url}"));
        let is_litestream = listing.is_empty() && listing.foreign_example().is_some_and(is_ltx_name);
        if is_litestream { e.with_hint(LTX_WARNING) } else { e }
    })
}

/// Carries out what is planned by a listing. What a running `replicate` merged or deleted since then is planned again.
pub fn retry_with_new_plan<P, T>(plan: impl Fn() -> Result<P>, mut carry_out: impl FnMut(P) -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match carry_out(plan()?) {
            Err(error) if error.kind() == Kind::NotFound && attempt < MAX_PLANS => {
                attempt += 1;
                log::info("object deleted during restore, planning again").error(&error).emit();
            }
            other => return other,
        }
    }
}

/// Logs what is not as it should be, and does not keep the plan from being carried out.
pub fn log_warnings(plan: &Plan) {
    for warning in &plan.warnings {
        log::warn("restore warning").field("detail", warning).emit();
    }
}
