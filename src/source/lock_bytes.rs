//! The bytes by which SQLite locks its files: where the first one is, and how many there are.

/// PENDING, RESERVED and SHARED bytes of a database: who reads or writes it holds one, and in WAL mode who is connected to it
/// (sqlite.org/c3ref/io_methods.html; os.h: PENDING_BYTE; unixLock).
pub const DATABASE_LOCKS: (i64, i64) = (0x4000_0000, 512);
/// The locks of a wal-index, and the byte that everybody holds who has it mapped (walformat.html#wal_locks, unixShmNode).
pub const INDEX_LOCKS: (i64, i64) = (120, 9);
