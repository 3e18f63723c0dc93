"""A long history: so many segments of one commit each, as the program stores them when nothing merges them.

SQLite itself writes the commits; what stands in each segment is cut from its WAL (litestream-format(5)), a second apart
from each other and the last one a moment ago.
"""

import base64
import hashlib
import json
import os
import sqlite3
import struct
import time
import zlib

import rig

PAGE = 512
FRAME = 24 + PAGE


class History:
    """The database, held open so that its WAL stays, and the objects of its replica: (name, content) in order."""

    def __init__(self, database, count):
        self.database, self.count = database, count
        self.connection = sqlite3.connect(database, isolation_level=None)
        for pragma in (f"page_size = {PAGE}", "journal_mode = wal", "synchronous = off", "wal_autocheckpoint = 0"):
            self.connection.execute("PRAGMA " + pragma)
        self.connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
        self.connection.execute("INSERT INTO t VALUES (1, 'x')")
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with open(database, "rb") as file:
            self.base = file.read()
        for number in range(count):
            self.connection.execute("UPDATE t SET body = ?", (f"commit {number}",))
        self.last = int(time.time() * 1000) - 1000
        self.first = self.last - 1000 * count
        self.generation = (self.first - 1000) << 16

    def close(self):
        self.connection.close()

    def objects(self, middle):
        """All of them, with a second snapshot behind segment `middle`."""
        yield self.snapshot(self.base, 0, 0, (0, 0, zlib.crc32(self.base), 0), self.first - 1000, flags=8)
        pages = {}
        with open(self.database + "-wal", "rb") as wal:
            header = wal.read(32)
            salts, sums = struct.unpack(">II", header[16:24]), struct.unpack(">II", header[24:32])
            begin, crc = 0, 0
            for number in range(self.count):
                payload = header if number == 0 else b""
                before, commit = sums, 0
                while not commit:
                    frame = wal.read(FRAME)
                    page, commit = struct.unpack_from(">II", frame)
                    sums = struct.unpack_from(">II", frame, 16)
                    pages[page], payload = frame[24:], payload + frame
                end, seen = begin + len(payload), self.first + 1000 * number
                yield self.segment(begin, end, payload, salts, before, sums, commit, seen, crc)
                begin, crc = end, zlib.crc32(payload)
                if number == middle:
                    whole = bytearray(self.base.ljust(commit * PAGE, b"\0"))
                    for page, content in pages.items():
                        whole[(page - 1) * PAGE:page * PAGE] = content
                    yield self.snapshot(bytes(whole), begin, begin, (*salts, *sums), seen)

    def segment(self, begin, end, payload, salts, before, after, pages, seen, crc):
        fields = struct.pack("<BBHQIQIQQIIIIIIIIQQI", 1, 1, 0, self.generation, 0, begin, 0, begin, end, PAGE, *salts,
                             *before, *after, pages, seen - 50, seen, crc)
        name = f"wal/{point(begin)}-{point(end)}-{moment(seen)}-{moment(seen)}.gz"
        return self.named(name), member(fields, payload, seen)

    def snapshot(self, content, offset, end, chain, seen, flags=0):
        fields = struct.pack("<BBHQIQIIIIIIQ", 1, 2, flags, self.generation, 0, offset, PAGE, *chain, len(content) // PAGE, seen)
        return self.named(f"snapshots/{point(end)}-{moment(seen)}.gz"), member(fields, content, seen)

    def named(self, name):
        return f"generations/{self.generation:016x}/{name}"


def point(offset):
    return f"00000000.{offset:012x}"


def moment(millis):
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(millis // 1000)) + f".{millis % 1000:03d}Z"


def member(fields, payload, seen):
    head = b"\x1f\x8b\x08\x04" + struct.pack("<I", seen // 1000) + b"\x00\xff" + struct.pack("<H", len(fields) + 8)
    head += b"LS" + struct.pack("<H", len(fields) + 4) + fields
    head += struct.pack("<I", zlib.crc32(head))
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return head + deflate.compress(payload) + deflate.flush() + struct.pack("<II", zlib.crc32(payload), len(payload))


def into_directory(directory, objects):
    for name, content in objects:
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


def into_bucket(server, bucket, objects):
    """As any client of the Object Store would, but without a round trip each."""
    async def work(nc, _):
        for number, (name, content) in enumerate(objects):
            nuid, digest = f"{number:022d}", base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            meta = {"name": name, "options": {"max_chunk_size": 131072}, "bucket": bucket, "nuid": nuid, "size": len(content),
                    "mtime": "0001-01-01T00:00:00Z", "chunks": 1, "digest": "SHA-256=" + digest}
            subject = f"$O.{bucket}.M." + base64.urlsafe_b64encode(name.encode()).decode()
            await rig.pipelined(nc, number, f"$O.{bucket}.C.{nuid}", content)
            await rig.pipelined(nc, number, subject, json.dumps(meta).encode(), {"Nats-Rollup": "sub"})
        await nc.flush(60)

    server.ask(work)
