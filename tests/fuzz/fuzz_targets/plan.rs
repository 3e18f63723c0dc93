//! A listing, one name a line: whatever it holds, a plan is an unbroken way or a refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::format::listing::Listing;
use litestream::format::plan::{PlanTarget, listed_end, plan};
use litestream::format::time::Timestamp;

fuzz_target!(|text: &str| {
    let listing = Listing::new(text.lines().map(|name| (name.to_string(), 1)));
    let _ = listed_end(&listing);
    for target in [PlanTarget::Latest, PlanTarget::Time(Timestamp::from_millis(text.len() as u64))] {
        let Ok(plan) = plan(&listing, None, &target) else { continue };
        let mut at = plan.snapshot.at;
        for (key, _) in &plan.segments {
            assert!(key.start <= at && key.end > at, "{key} does not continue {at}");
            at = key.end;
        }
    }
});
