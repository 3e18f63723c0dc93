//! The text of a configuration file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::config;

fuzz_target!(|text: &str| {
    let none = |_: &str| None;
    let Ok(around) = config::check_files::real_environment(&none) else { return };
    let _ = config::parse(text, &around, true);
});
