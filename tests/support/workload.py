"""An application: writes to a SQLite database so that any later copy of it can be judged (judge.py).

Each transaction raises m.seq by one and keeps in m.sum the sum of the hashes of all rows of t, modulo 2^63. Each
commit adds a line `seq sum t0 t1` to the log (Unix seconds before and after COMMIT), and before it a line `? seq sum`,
so that a commit whose writer was killed before it could say so is known too. The same seed on the same database gives
the same rows. Standard library only.
"""

import argparse
import hashlib
import os
import random
import sqlite3
import sys
import threading
import time

SCHEMA = """
CREATE TABLE IF NOT EXISTS m (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
INSERT OR IGNORE INTO m VALUES (1, 0, 0);
"""
MODULUS = 2**63
# SQLite's own default busy timeout is none; an application that is backed up has one.
BUSY_SECONDS = 10
# A wait of this long is looked into: who holds which lock, so often.
PATIENCE, LOOK = 1.0, 0.25
# Locks in a -shm file (wal.c).
NAMES = ["WRITE", "CKPT", "RECOVER", "READ0", "READ1", "READ2", "READ3", "READ4"]


class Locks:
    """Says who held what while a statement waited: lines of `WRITE:pid:name READ1-4:pid:name`, one a look."""

    def __init__(self, database):
        self.shm = database + "-shm"
        self.since = None
        self.seen = []
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            time.sleep(LOOK)
            since = self.since
            if since is not None and time.monotonic() - since > PATIENCE:
                self.seen.append(f"{time.monotonic() - since:.1f}s {self.look()}")

    def look(self):
        try:
            inode = str(os.stat(self.shm).st_ino)
            return " ".join(sorted(self.held(line) for line in open("/proc/locks") if f":{inode} " in line))
        except OSError as error:
            return str(error)

    def held(self, line):
        kind, pid, _, first, last = line.split()[-5:]
        first, last = int(first) - 120, int(last) - 120
        names = "DMS" if first == 8 else "-".join(NAMES[at] for at in sorted({first, last}))
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            words = ["gone"]
        who = "litestream" if "litestream" in os.path.basename(words[0]) else "application"
        return f"{names}{'!' if kind == 'WRITE' else ''}:{who}:{pid}"


def row_hash(key, body):
    digest = hashlib.blake2b(key.to_bytes(8, "big") + body, digest_size=8).digest()
    return int.from_bytes(digest, "big") % MODULUS


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("database")
    parser.add_argument("log")
    add = parser.add_argument
    add("--seed", type=int, default=1)
    add("--seconds", type=float, help="stop after this time")
    add("--commits", type=int, help="stop after so many commits")
    add("--rate", type=float, default=0, help="commits a second; 0: as fast as it goes")
    add("--rows", type=int, default=3, help="rows inserted in a transaction; with 0 each commit is one frame")
    add("--size", type=int, default=120, help="bytes in a row, on average")
    add("--change", type=float, default=0.5, help="rows updated or deleted for each inserted one")
    add("--page-size", type=int)
    add("--journal", default="wal")
    add("--sync", default="normal", help="PRAGMA synchronous")
    add("--autocheckpoint", type=int, help="PRAGMA wal_autocheckpoint")
    add("--rollback", type=float, default=0, help="share of transactions that are rolled back")
    add("--spill", action="store_true", help="a tiny cache, large transactions, savepoints that are rolled back")
    add("--checkpoint", default="", help="modes used in turn, such as passive,full,restart,truncate")
    add("--every", type=int, default=20, help="commits between two checkpoints or VACUUMs")
    add("--vacuum", action="store_true", help="delete most rows and VACUUM, now and then")
    add("--churn", action="store_true", help="open and close the database for each transaction")
    add("--reader", action="store_true", help="another connection keeps a read transaction open to the end")
    add("--abandon", action="store_true", help="end like a crash: nothing is closed, the WAL stays")
    return parser.parse_args()


class Application:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.log = open(options.log, "a")
        self.connection = None
        self.commits = 0
        self.busy_checkpoints = 0
        self.waits = []
        self.locks = Locks(options.database)
        self.open()
        self.connection.executescript(SCHEMA)
        seq, _ = self.connection.execute("SELECT seq, sum FROM m").fetchone()
        self.random.seed(options.seed * 1_000_003 + seq)
        self.reader = self.open_reader() if options.reader else None

    def open(self):
        o = self.options
        self.connection = c = sqlite3.connect(o.database, timeout=BUSY_SECONDS, isolation_level=None)
        if o.page_size:
            c.execute(f"PRAGMA page_size = {o.page_size}")
        found = c.execute(f"PRAGMA journal_mode = {o.journal}").fetchone()[0]
        if found != o.journal:
            sys.exit(f"workload: journal mode {o.journal} wanted, {found} found")
        c.execute(f"PRAGMA synchronous = {o.sync}")
        if o.autocheckpoint is not None:
            c.execute(f"PRAGMA wal_autocheckpoint = {o.autocheckpoint}")
        if o.spill:
            c.execute("PRAGMA cache_size = 8")
            c.execute("PRAGMA cache_spill = 1")

    def open_reader(self):
        reader = sqlite3.connect(self.options.database, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        return reader

    def run(self):
        o = self.options
        begin = time.monotonic()
        while not self.over(begin):
            self.transaction()
            self.care()
            if o.churn:
                self.connection.close()
                self.open()
            if o.rate:
                time.sleep(max(0, begin + self.commits / o.rate - time.monotonic()))
        print(f"commits={self.commits} busy_checkpoints={self.busy_checkpoints} {self.waited()}", flush=True)
        if o.abandon:
            os._exit(0)
        self.connection.close()

    def waited(self):
        """How long BEGIN IMMEDIATE and COMMIT took, in milliseconds."""
        waits = sorted(self.waits) or [0]
        at = lambda share: 1000 * waits[min(len(waits) - 1, int(share * len(waits)))]
        return f"median_ms={at(0.5):.2f} p999_ms={at(0.999):.1f} longest_ms={at(1):.1f}"

    def over(self, begin):
        o = self.options
        late = o.seconds is not None and time.monotonic() - begin >= o.seconds
        return late or (o.commits is not None and self.commits >= o.commits)

    def transaction(self):
        c = self.connection
        self.begin()
        seq, total = c.execute("SELECT seq, sum FROM m").fetchone()
        if self.options.spill:
            self.undone_savepoint()
        total = self.change_rows(total)
        if self.random.random() < self.options.rollback:
            c.execute("ROLLBACK")
            return
        seq, total = seq + 1, total % MODULUS
        self.commit(seq, total)
        self.commits += 1

    def begin(self):
        begun = time.monotonic()
        self.locks.seen, self.locks.since = [], begun
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            print("locks while it waited:", *self.locks.seen, sep="\n", file=sys.stderr)
            raise
        finally:
            self.locks.since = None
        waited = time.monotonic() - begun
        self.waits.append(waited)
        if waited > 3:
            print(f"waited {waited:.1f}s", *self.locks.seen, sep="\n", file=sys.stderr, flush=True)

    def commit(self, seq, total):
        c = self.connection
        c.execute("UPDATE m SET seq = ?, sum = ?", (seq, total))
        self.note(f"? {seq} {total}")
        before, begun = time.time(), time.monotonic()
        c.execute("COMMIT")
        if self.waits:
            self.waits[-1] += time.monotonic() - begun
        self.note(f"{seq} {total} {before:.6f} {time.time():.6f}")

    def note(self, line):
        """One write(2), so that the lines of several processes never mix."""
        self.log.write(line + "\n")
        self.log.flush()

    def change_rows(self, total):
        """Inserts, updates and deletes; returns the new sum."""
        o, c = self.options, self.connection
        last = c.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()[0]
        for key in range(last + 1, last + 1 + o.rows):
            body = self.body()
            c.execute("INSERT INTO t VALUES (?, ?)", (key, body))
            total += row_hash(key, body)
        for _ in range(o.rows):
            if last and self.random.random() < o.change:
                total += self.change_row(self.random.randint(1, last))
        return total

    def change_row(self, at):
        """Updates or deletes the row at or behind a key; returns the difference that it makes."""
        c = self.connection
        key, old = c.execute("SELECT id, body FROM t WHERE id >= ? LIMIT 1", (at,)).fetchone() or (0, None)
        if old is None:
            return 0
        if self.random.random() < 0.4:
            c.execute("DELETE FROM t WHERE id = ?", (key,))
            return -row_hash(key, old)
        new = self.body()
        c.execute("UPDATE t SET body = ? WHERE id = ?", (new, key))
        return row_hash(key, new) - row_hash(key, old)

    def undone_savepoint(self):
        """Writes more than the cache holds, so that uncommitted frames reach the WAL, and takes it back."""
        c = self.connection
        c.execute("SAVEPOINT s")
        c.execute("UPDATE t SET body = randomblob(length(body)) WHERE id % 2 = 0")
        for _ in range(40):
            c.execute("INSERT INTO t (body) VALUES (randomblob(3000))")
        c.execute("ROLLBACK TO s")
        c.execute("RELEASE s")

    def body(self):
        """Half text, half noise, so that it compresses as real rows do."""
        length = max(2, int(self.random.uniform(0.5, 1.5) * self.options.size))
        noise = self.random.randbytes(length // 2)
        return noise + (b"some words that come again " * (length // 27 + 1))[: length - len(noise)]

    def care(self):
        """What applications do now and then besides writing rows."""
        o, c = self.options, self.connection
        if not self.commits or self.commits % o.every:
            return
        if o.vacuum:
            self.shrink()
            c.execute("VACUUM")
        modes = o.checkpoint.split(",") if o.checkpoint else []
        if modes:
            mode = modes[self.commits // o.every % len(modes)]
            self.busy_checkpoints += c.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0]

    def shrink(self):
        """A transaction that deletes most rows."""
        c = self.connection
        self.begin()
        c.execute("DELETE FROM t WHERE id % 5 <> 0")
        total = sum(row_hash(key, body) for key, body in c.execute("SELECT id, body FROM t")) % MODULUS
        seq = c.execute("SELECT seq FROM m").fetchone()[0] + 1
        self.commit(seq, total)


if __name__ == "__main__":
    Application(options()).run()
