//! Configurations that are read as if nothing were in the environment.

use std::path::{Path, PathBuf};

use litestream::config::{self, Config, Environment};
use litestream::error::Result;

/// With `expand`, variables in it are expanded; none of them is set.
pub fn parse(text: &str, expand: bool) -> Result<Config> {
    let seed_file = |_: &Path| unreachable!("NATS_NKEY is not set");
    let around = Environment {
        env: &|_| None,
        current_dir: PathBuf::from("/"),
        seed_file: &seed_file,
        context_file: &|_| Ok(None),
    };
    config::parse(text, &around, expand)
}
