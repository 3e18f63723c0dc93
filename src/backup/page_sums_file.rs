//! The page checksums of a stored commit, in a file beside the lock: what a start needs to store what differs, where
//! the WAL does not tell what happened meanwhile.
//!
//! Nothing has to be believed of the file: see [`crate::format::page_sums`]. One that is missing, damaged, or of a state that is not
//! what the store has at its position is none; then a new generation begins.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;

use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::page_sums::{MAX_HEADER_BYTES, PageSums, SummedCommit};
use crate::format::position::Position;

const SUMS_FILE: &str = "page-checksums";

/// Reads them, and of which state they are; none where there are none that are whole.
pub fn read(meta: &Path) -> Option<(SummedCommit, PageSums)> {
    let kept = read_state(meta)?;
    let read = || -> io::Result<Vec<u8>> {
        let file = Directory::open(meta)?.read_own(OsStr::new(SUMS_FILE))?;
        let mut bytes = Vec::new();
        file.take(kept.encoded_len()).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    PageSums::decode(&read().ok()?).ok()
}

/// The state that they call themselves those of.
pub fn read_state(meta: &Path) -> Option<SummedCommit> {
    let read = || -> io::Result<(Vec<u8>, u64)> {
        let file = Directory::open(meta)?.read_own(OsStr::new(SUMS_FILE))?;
        let (mut header, len) = (Vec::new(), file.metadata()?.len());
        file.take(MAX_HEADER_BYTES as u64).read_to_end(&mut header)?;
        Ok((header, len))
    };
    let (header, len) = read().ok()?;
    SummedCommit::decode(&header).ok().filter(|kept| kept.encoded_len() == len)
}

/// Puts those of the database file `inode`, at these positions, in the place of the ones that were there.
pub fn write(meta: &Path, sums: &PageSums, inode: u64, positions: &[Position]) -> Result<()> {
    let failed = |e: io::Error| Error::io(Kind::Database, format!("write {}/{SUMS_FILE}", meta.display()), &e);
    let directory = Directory::open(meta).map_err(failed)?;
    let replaced = directory.replace(OsStr::new(SUMS_FILE), |file| sums.encode(inode, positions, file).map(|()| true));
    replaced.and_then(|_| directory.sync()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::position::PageSize;

    #[test]
    fn page_checksums_are_found_again_with_their_state() {
        let meta = std::env::temp_dir().join(format!("litestream-page-sums-{}", std::process::id()));
        std::fs::create_dir_all(&meta).unwrap();
        let size = PageSize::new(512).unwrap();
        let (mut sums, none) = (PageSums::new(size), PageSums::new(size));
        (0..3).for_each(|byte| {
            sums.push(&[byte; 512], &none);
        });
        let kept = SummedCommit {
            state: sums.state(7),
            positions: vec!["0000000000000007/00000001:000000000020".parse().unwrap()],
        };
        assert_eq!((read(&meta), read_state(&meta)), (None, None));
        for _ in 0..2 {
            write(&meta, &sums, 7, &kept.positions).unwrap();
            assert_eq!((read(&meta), read_state(&meta)), (Some((kept.clone(), sums.clone())), Some(kept.clone())));
        }
        assert_eq!(std::fs::read_dir(&meta).unwrap().count(), 1, "nothing else is left");
        // A link that another user planted is not followed.
        std::fs::rename(meta.join(SUMS_FILE), meta.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(meta.join("elsewhere"), meta.join(SUMS_FILE)).unwrap();
        assert_eq!((read(&meta), read_state(&meta)), (None, None));
        std::fs::remove_dir_all(&meta).unwrap();
    }
}
