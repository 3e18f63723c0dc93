//! A -shm file that is made shorter while it is mapped ends no process.
//!
//! Anyone who may write to a database may truncate its -shm file, and the next look at the wal-index, ours or SQLite's, then
//! meets a page that the file does not have: SIGBUS (mmap(2)), which would end the replicator of every other database too.
//! The handler puts a page of zeros there, and notes whose file it was; the source sees the note, gives up its
//! connections, and the mapping with them, and everything is opened again.
//!
//! Why this is sound: zeros are a wal-index header that is not initialised, so no commit is read from it. What is copied
//! comes from the -wal file, frame by frame under its checksums, up to a commit that the wal-index named before. SQLite
//! passes over the page number 0 that it then finds in its hash tables (walIteratorNext, sqlite3.c), and its locks are not
//! in the mapping. The page is this process's alone: nobody else sees what is stored there.
//!
//! Only open, read, close, mmap and sigaction are called, and atomics stored to: nothing that could wait for a lock or
//! allocate. A fault anywhere else, or one whose file cannot be told, is what it would be without the handler.

use std::ffi::{c_int, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::{Error, Kind, Result};

/// As many faults as are remembered. Each is seen within a second or so.
const FAULT_NOTES: usize = 64;

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The inodes, the newest in place of the oldest.
static INODES: [AtomicU64; FAULT_NOTES] = [const { AtomicU64::new(0) }; FAULT_NOTES];
/// What was in force before, for faults that are not ours.
static mut PREVIOUS: Option<libc::sigaction> = None;

/// Faults up to a moment. Those before it are no concern of a mapping that was made then.
#[derive(Clone, Copy, Debug)]
pub(super) struct FaultCount(usize);

impl FaultCount {
    pub(super) fn current() -> FaultCount {
        FaultCount(COUNT.load(Ordering::SeqCst))
    }

    /// Errors: of kind `Database`, if the -shm file with this inode was cut since.
    pub(super) fn check(self, inode: u64) -> Result<()> {
        let now = COUNT.load(Ordering::SeqCst);
        let missed = now.saturating_sub(self.0) > FAULT_NOTES;
        let noted = (self.0..now).any(|at| INODES[at % FAULT_NOTES].load(Ordering::SeqCst) == inode);
        if !missed && !noted {
            return Ok(());
        }
        Err(Error::new(Kind::Database, "-shm file: truncated by another process while the database was in use")
            .with_hint("only SQLite may write to the -shm file; find the process that did"))
    }
}

/// Takes over SIGBUS, once a process.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction, and the handler does what signal-safety(7) allows, and mmap(2), which is
        // a bare system call. `PREVIOUS` is written before the handler can run.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut previous: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous);
            PREVIOUS = Some(previous);
            action.sa_sigaction = handle_sigbus as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

extern "C" fn handle_sigbus(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a siginfo; errno is this thread's; the page that is replaced is one of a -shm file's mapping.
    unsafe {
        let errno = *libc::__errno_location();
        let address = (*info).si_addr() as usize;
        let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let replaced = shm_at(address).is_some_and(|inode| {
            let start = (address / page * page) as *mut c_void;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let new = libc::mmap(start, page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            record_inode(inode);
            new != libc::MAP_FAILED
        });
        if !replaced {
            // Back to the instruction, which faults again.
            let previous = (&raw const PREVIOUS).as_ref().and_then(Option::as_ref);
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, previous.unwrap_or(&default), std::ptr::null_mut());
        }
        *libc::__errno_location() = errno;
    }
}

fn record_inode(inode: u64) {
    let at = COUNT.load(Ordering::SeqCst);
    INODES[at % FAULT_NOTES].store(inode, Ordering::SeqCst);
    COUNT.store(at.wrapping_add(1), Ordering::SeqCst);
}

/// The inode of the -shm file that is mapped at `address`; none if it is no such file.
fn shm_at(address: usize) -> Option<u64> {
    // SAFETY: open, read and close with a name that ends with a zero byte and a buffer of ours.
    unsafe {
        let maps = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if maps < 0 {
            return None;
        }
        let (mut lines, mut buffer, mut found) = (MapsReader::new(address), [0u8; 1024], None);
        loop {
            let count = libc::read(maps, buffer.as_mut_ptr().cast(), buffer.len());
            let Some(bytes) = usize::try_from(count).ok().and_then(|count| buffer.get(..count)) else { break };
            found = bytes.iter().find_map(|byte| lines.next_mapping(*byte));
            if bytes.is_empty() || found.is_some() {
                break;
            }
        }
        libc::close(maps);
        found
    }
}

/// Lines of proc_pid_maps(5), byte by byte: `start-end flags offset device inode  path`.
struct MapsReader {
    address: u64,
    field: u8,
    /// The last byte was a space.
    gap: bool,
    start: u64,
    end: u64,
    inode: u64,
    /// The last bytes of the path.
    last: [u8; 4],
}

impl MapsReader {
    fn new(address: usize) -> MapsReader {
        MapsReader { address: address as u64, field: 0, gap: false, start: 0, end: 0, inode: 0, last: [0; 4] }
    }

    /// The inode, at the end of the line that is looked for.
    fn next_mapping(&mut self, byte: u8) -> Option<u64> {
        if byte == b'\n' {
            let ours = (self.start..self.end).contains(&self.address) && self.last == *b"-shm";
            let inode = self.inode;
            *self = MapsReader::new(self.address as usize);
            return ours.then_some(inode);
        }
        if self.field < 6 && (byte == b' ' || (byte == b'-' && self.field == 0)) {
            self.gap = true;
            return None;
        }
        if std::mem::take(&mut self.gap) {
            self.field += 1;
        }
        let digit = u64::from(char::from(byte).to_digit(16).unwrap_or(0));
        match self.field {
            0 => self.start = self.start.wrapping_mul(16).wrapping_add(digit),
            1 => self.end = self.end.wrapping_mul(16).wrapping_add(digit),
            5 => self.inode = self.inode.wrapping_mul(10).wrapping_add(digit),
            6 => self.last = [self.last[1], self.last[2], self.last[3], byte],
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_in_a_shm_file_is_ours() {
        let maps = b"7f00-7f10 rw-s 00000000 08:01 42                         /a b/x.db-shm\n\
            7f10-7f20 r-xp 00001000 08:01 43 /lib/x.so\n7f20-7f30 rw-p 00000000 00:00 0 \n\
            7f40-7f50 rw-s 00000000 fe:0a 123456 /y-shm\n";
        let inode = |address| {
            let mut lines = MapsReader::new(address);
            maps.iter().find_map(|byte| lines.next_mapping(*byte))
        };
        assert_eq!((inode(0x7f00), inode(0x7f0f)), (Some(42), Some(42)));
        assert_eq!((inode(0x7f10), inode(0x7f25), inode(0x7f30)), (None, None, None));
        assert_eq!(inode(0x7f4f), Some(123_456));
    }

    #[test]
    fn a_mapping_that_is_cut_reads_as_zeros_and_is_noted() {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("litestream-cut-{}-shm", std::process::id()));
        std::fs::write(&path, [7; 32_768]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        install();
        let before = FaultCount::current();
        // SAFETY: a fresh mapping of a file that is open, read inside of its length.
        let word = unsafe {
            let flags = libc::PROT_READ | libc::PROT_WRITE;
            let map = libc::mmap(std::ptr::null_mut(), 32_768, flags, libc::MAP_SHARED, file.as_raw_fd(), 0);
            assert_ne!(map, libc::MAP_FAILED);
            file.set_len(0).unwrap();
            map.cast::<u8>().add(5000).read_volatile()
        };
        assert_eq!(word, 0);
        let inode = file.metadata().unwrap().ino();
        assert!(before.check(inode).is_err() && before.check(inode + 1).is_ok());
        assert!(FaultCount::current().check(inode).is_ok());
        std::fs::remove_file(&path).unwrap();
    }
}
