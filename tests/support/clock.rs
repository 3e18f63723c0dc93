//! A command of the program whose wall clock is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Bed;

/// The library that sets the wall clock wrong (support/clock_offset.c).
pub fn wrong_clock(bed: &Bed) -> PathBuf {
    let library = bed.fresh("clock_offset.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock_offset.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(built.expect("run cc").success());
    library
}

pub fn with_clock<'a>(command: &'a mut Command, library: &Path, seconds: i64) -> &'a mut Command {
    command.env("LD_PRELOAD", library).env("CLOCK_OFFSET", seconds.to_string())
}
