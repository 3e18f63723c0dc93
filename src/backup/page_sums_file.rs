//! The page checksums of the newest stored commit, in a file beside the lock: what a start needs to store what differs, where
//! the WAL does not tell what happened meanwhile.
//!
//! Nothing has to be believed of the file: see [`crate::format::page_sums`]. One that is missing, damaged, or of another
//! commit is none; then a new generation begins.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;

use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::page_sums::{HEADER, PageSums, SummedState};

const NAME: &str = "page-checksums";

/// Reads those of a state; none where it has none that can be believed.
pub fn read(meta: &Path, state: &SummedState) -> Option<PageSums> {
    let bytes = read_whole(meta, state).ok()?;
    PageSums::decode(&bytes, state).ok()
}

fn read_whole(meta: &Path, state: &SummedState) -> io::Result<Vec<u8>> {
    let file = Directory::open(meta)?.read_own(OsStr::new(NAME))?;
    if file.metadata()?.len() != state.encoded_len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    file.take(state.encoded_len()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether those that are there call themselves those of this state.
pub fn are_of(meta: &Path, state: &SummedState) -> bool {
    let read = || -> io::Result<bool> {
        let mut file = Directory::open(meta)?.read_own(OsStr::new(NAME))?;
        let mut header = [0; HEADER];
        file.read_exact(&mut header)?;
        Ok(header == state.encode() && file.metadata()?.len() == state.encoded_len())
    };
    read().unwrap_or(false)
}

/// Puts those of the database file `inode` in the place of the ones that were there.
pub fn write(meta: &Path, sums: &PageSums, inode: u64) -> Result<()> {
    let failed = |e: io::Error| Error::io(Kind::Database, format!("write {}/{NAME}", meta.display()), &e);
    let directory = Directory::open(meta).map_err(failed)?;
    let replaced = directory.replace(OsStr::new(NAME), |file| sums.encode(inode, file).map(|()| true));
    replaced.and_then(|_| directory.sync()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::position::PageSize;

    #[test]
    fn page_checksums_are_found_again_for_their_state_alone() {
        let meta = std::env::temp_dir().join(format!("litestream-page-sums-{}", std::process::id()));
        std::fs::create_dir_all(&meta).unwrap();
        let size = PageSize::new(512).unwrap();
        let (mut sums, none) = (PageSums::new(size), PageSums::new(size));
        (0..3).for_each(|byte| {
            sums.push(&[byte; 512], &none);
        });
        let (state, other) = (sums.state(7), sums.state(8));
        assert_eq!((read(&meta, &state), are_of(&meta, &state)), (None, false));
        for _ in 0..2 {
            write(&meta, &sums, 7).unwrap();
            assert_eq!((read(&meta, &state), are_of(&meta, &state)), (Some(sums.clone()), true));
            assert_eq!((read(&meta, &other), are_of(&meta, &other)), (None, false));
        }
        assert_eq!(std::fs::read_dir(&meta).unwrap().count(), 1, "nothing else is left");
        // A link that another user planted is not followed.
        std::fs::rename(meta.join(NAME), meta.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(meta.join("elsewhere"), meta.join(NAME)).unwrap();
        assert_eq!((read(&meta, &state), are_of(&meta, &state)), (None, false));
        std::fs::remove_dir_all(&meta).unwrap();
    }
}
