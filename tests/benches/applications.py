"""Eight applications that each commit something else, and what a tool stores of a commit. Standard library and nats-py only."""

import os
import random
import re
import sqlite3
import time
import zlib

import rig

# Bytes of an LTX file around its pages: header and trailer.
LTX_AROUND = 100 + 16


def words(draw, count):
    return " ".join(draw.choices("backup commit page frame log index snapshot segment restore database reader bread butter".split(), k=count))


class Application:
    """A database, filled, and the statements of its next commit."""

    def __init__(self, schema, fill, rows, commit):
        self.schema, self.fill, self.rows, self.commit = schema, fill, rows, commit

    def create(self, path):
        connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = wal", "synchronous = normal", "wal_autocheckpoint = 1000"):
            connection.execute("PRAGMA " + pragma)
        connection.executescript(self.schema)
        draw = random.Random(1)
        connection.execute("BEGIN")
        for number in range(self.rows):
            connection.execute(*self.fill(draw, number))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return connection, draw


def log_row(draw, number):
    return ("INSERT INTO t VALUES (NULL, ?, ?, ?)",
            (f"2026-11-28T08:{number % 60:02d}:00.{number % 1000:03d}Z", draw.choice(("info", "warn")), words(draw, 9)))


def blob(draw, _):
    return "INSERT INTO t VALUES (NULL, ?)", (draw.randbytes(200),)


def by_key(draw, _):
    return ("INSERT INTO t VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            ("%016x" % draw.randrange(20_000), "%032x" % draw.getrandbits(128)))


def user(draw, number):
    return ("INSERT INTO t VALUES (NULL, ?, ?, ?, ?)",
            (f"user{draw.randrange(10**9)}@example.com", number, words(draw, 3), words(draw, 12)))


def user_change(draw, number):
    return ("UPDATE t SET email = ?, seen = ? WHERE id = ?",
            (f"user{draw.randrange(10**9)}@example.com", 10**6 + number, draw.randrange(1, 20_000)))


def session(draw, number):
    return "INSERT INTO t VALUES (?, ?, ?)", ("%032x" % number, 10**6, words(draw, 20))


def session_change(draw, number):
    return "UPDATE t SET expires = ? WHERE token = ?", (10**6 + number, "%032x" % draw.randrange(200))


def sensor(draw, number):
    return "INSERT INTO t VALUES (NULL, ?, ?, ?)", (draw.randrange(500), number, round(draw.gauss(20, 5), 2))


def count(_, __):
    return "INSERT INTO t VALUES (1, 0)", ()


def count_up(_, __):
    return "UPDATE t SET n = n + 1", ()


def text(draw, number):
    key = number if number < 5000 else draw.randrange(5000)
    return "INSERT INTO t VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body", (key, words(draw, 25))


APPLICATIONS = {
    "append a log row": Application("CREATE TABLE t (id INTEGER PRIMARY KEY, at, level, text)", log_row, 20_000, log_row),
    "append a blob of 200 random bytes": Application("CREATE TABLE t (id INTEGER PRIMARY KEY, body)", blob, 10_000, blob),
    "upsert by random key": Application("CREATE TABLE t (key TEXT PRIMARY KEY, value)", by_key, 40_000, by_key),
    "update a user, two indexes": Application(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, email, seen, name, about); CREATE INDEX e ON t (email); CREATE INDEX s ON t (seen)",
        user, 20_000, user_change),
    "update a web session": Application("CREATE TABLE t (token TEXT PRIMARY KEY, expires, data)", session, 200, session_change),
    "ten sensor rows and an index": Application(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, sensor, at, value); CREATE INDEX s ON t (sensor, at)", sensor, 50_000,
        lambda draw, number: [sensor(draw, number) for _ in range(10)]),
    "count": Application("CREATE TABLE t (id INTEGER PRIMARY KEY, n)", count, 1, count_up),
    "upsert of text, 5,000 keys": Application("CREATE TABLE t (id INTEGER PRIMARY KEY, body)", text, 5_000, text),
}


class Running:
    """All of them, each in a database of its own below `folder`."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.paths = [os.path.join(folder, f"a{number}.db") for number in range(len(APPLICATIONS))]
        self.open = [(app, *app.create(path)) for app, path in zip(APPLICATIONS.values(), self.paths)]
        self.number = 10**5

    def commit(self):
        """One commit in each."""
        self.number += 1
        for app, connection, draw in self.open:
            statements = app.commit(draw, self.number)
            connection.execute("BEGIN")
            for statement in statements if isinstance(statements, list) else [statements]:
                connection.execute(*statement)
            connection.execute("COMMIT")

    def commit_at(self, rate, seconds):
        """How many commits each made."""
        begin, done = time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            self.commit()
            done += 1
            time.sleep(max(0, begin + done / rate - time.monotonic()))
        return done

    def close(self):
        for _, connection, _ in self.open:
            connection.close()


def payload_of_member(data):
    """Bytes of deflate in the first gzip member, and what follows it. The header has an extra field and nothing else."""
    header = 12 + int.from_bytes(data[10:12], "little")
    stream = zlib.decompressobj(-15)
    stream.decompress(data[header:])
    return len(data) - header - len(stream.unused_data), stream.unused_data[8:]


def payload(tool, data):
    """Bytes of an object that say what has changed: without headers, trailers and checksums."""
    if tool.name == "peer":
        return len(data) - LTX_AROUND
    total = 0
    while data:
        size, data = payload_of_member(data)
        total += size
    return total


def segments(server, tool, buckets):
    """The objects that hold changes, for each bucket: bytes by name."""
    pattern = r"ltx/0/" if tool.name == "peer" else r"generations/\w+/wal/"

    async def read(_, js):
        found = []
        for bucket in buckets:
            store = await js.object_store(bucket)
            names = [entry.name for entry in await store.list() if re.match(pattern, entry.name)]
            found.append({name: (await store.get(name)).data for name in names})
        return found

    return server.ask(read)


def geometric_mean(values):
    product = 1.0
    for value in values:
        product *= value ** (1 / len(values))
    return product
