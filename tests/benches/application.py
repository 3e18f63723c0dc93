"""The application beside the tool: commits at a rate or as fast as it goes, and says how long its commits took.

One row a transaction. Prints a JSON line at its end. With -log, a line for each commit: when COMMIT returned (Unix
seconds), the WAL's salts and the frames then in it, from the wal-index. Standard library only.
"""

import argparse
import json
import os
import random
import sqlite3
import struct
import time

WORDS = ("backup commit page frame log index snapshot segment position restore database application writer reader "
         "checkpoint salt header server object bucket stream message cluster leader follower bread butter cheese").split()


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("database")
    add("-seconds", type=float, default=5)
    add("-rate", type=float, default=0, help="commits a second; 0: as fast as it goes")
    add("-size", type=int, default=100, help="bytes in a row")
    add("-autocheckpoint", type=int, default=1000)
    add("-fill", type=float, default=0, help="MB of rows to write first, then end")
    add("-double", type=int, default=0, help="so many times as many rows again as there are")
    add("-keys", type=int, default=0, help="upserts of text by so many keys; without -rate all of them once, then end")
    add("-noise", action="store_true", help="rows that do not compress")
    add("-truncate", type=int, default=0, help="so many times: a commit, then a TRUNCATE checkpoint")
    add("-log")
    return parser.parse_args()


def document(number, draw):
    """A row as an application would keep it: JSON with text, figures, a hash and a time."""
    return json.dumps({
        "id": number,
        "hash": "%032x" % draw.getrandbits(128),
        "at": "2026-11-%02dT%02d:%02d:%02d.%03dZ" % (draw.randint(1, 30), draw.randint(0, 23), draw.randint(0, 59),
                                                    draw.randint(0, 59), draw.randint(0, 999)),
        "text": " ".join(draw.choices(WORDS, k=draw.randint(5, 60))),
        "values": [round(draw.gauss(100, 30), 4) for _ in range(draw.randint(2, 12))],
        "token": draw.randbytes(draw.randint(20, 120)).hex(),
    })


def fill(connection, megabytes, noise, doublings):
    draw, written, number = random.Random(1), 0, 0
    while written < megabytes * 1e6:
        connection.execute("BEGIN")
        for _ in range(5000):
            body = draw.randbytes(2000) if noise else document(number, draw)
            connection.execute("INSERT INTO t (body) VALUES (?)", (body,))
            written, number = written + len(body) + 10, number + 1
            if written >= megabytes * 1e6:
                break
        connection.execute("COMMIT")
    for _ in range(doublings):
        connection.execute("INSERT INTO t (body) SELECT body FROM t")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"rows": number << doublings}


class Log:
    """Frames and salts after each commit. The wal-index's file stays open: closing it would drop SQLite's own locks."""

    def __init__(self, path, database):
        self.file = open(path, "w")
        self.index = os.open(database + "-shm", os.O_RDONLY)

    def note(self, when):
        header = os.pread(self.index, 48, 0)
        frames, = struct.unpack_from("=I", header, 16)
        self.file.write(f"{when:.6f} {header[32:40].hex()} {frames}\n")


def run(connection, o):
    draw = random.Random(1)
    log = Log(o.log, o.database) if o.log else None
    waits, begin = [], time.monotonic()
    while (now := time.monotonic()) < begin + o.seconds:
        if o.keys:
            upsert(connection, draw.randrange(o.keys), draw)
        else:
            body = draw.randbytes(o.size) if o.noise else "x" * o.size
            connection.execute("INSERT INTO t (body) VALUES (?)", (body,))
        done = time.monotonic()
        waits.append(done - now)
        if log:
            log.note(time.time())
        # Sleeps shorter than a millisecond are mostly overhead.
        if o.rate and (ahead := begin + len(waits) / o.rate - done) > 0.001:
            time.sleep(ahead)
    seconds = time.monotonic() - begin
    waits.sort()
    at = lambda part: waits[min(len(waits) - 1, int(part * len(waits)))] * 1000
    return {"commits": len(waits), "rate": len(waits) / seconds, "p50_ms": at(0.5), "p99_ms": at(0.99),
            "p999_ms": at(0.999), "max_ms": waits[-1] * 1000}


def upsert(connection, key, draw):
    text = " ".join(draw.choices(WORDS, k=25))
    connection.execute("INSERT INTO t VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body", (key, text))


def fill_keys(connection, keys):
    draw = random.Random(1)
    connection.execute("BEGIN")
    for key in range(keys):
        upsert(connection, key, draw)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"rows": keys}


def truncate(connection, times):
    """How often a TRUNCATE checkpoint succeeded, and how long each took."""
    busy, waits = 0, []
    for _ in range(times):
        connection.execute("INSERT INTO t (body) VALUES ('x')")
        begin = time.monotonic()
        busy += connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        waits.append(time.monotonic() - begin)
        time.sleep(0.3)
    return {"busy": busy, "waits": waits}


def main():
    o = options()
    connection = sqlite3.connect(o.database, timeout=5, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = normal")
    connection.execute(f"PRAGMA wal_autocheckpoint = {o.autocheckpoint}")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body)")
    if o.fill:
        result = fill(connection, o.fill, o.noise, o.double)
    elif o.keys and not o.rate:
        result = fill_keys(connection, o.keys)
    elif o.truncate:
        result = truncate(connection, o.truncate)
    else:
        result = run(connection, o)
    print(json.dumps(result))


main()
