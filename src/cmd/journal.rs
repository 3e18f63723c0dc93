//! Whether standard error is systemd's journal, which stamps each line itself.

use std::os::unix::fs::MetadataExt;

use crate::config::LookupVar;

/// `JOURNAL_STREAM` names a device and an inode; a child that has its standard error elsewhere inherits it all the same.
pub fn stderr_is_journal(env: LookupVar<'_>) -> bool {
    let named = env("JOURNAL_STREAM");
    let Some((device, inode)) = named.as_deref().and_then(|text| text.split_once(':')) else { return false };
    let ours = std::fs::metadata("/proc/self/fd/2");
    ours.is_ok_and(|ours| ours.dev().to_string() == device && ours.ino().to_string() == inode)
}
