"""The judge of a restored database. Standard library only.

judge.py state FILE...   integrity, and m.sum against the rows; prints `seq sum rows bytes` of each
judge.py equal A B       the same schema, rows and settings in both; prints what differs
judge.py sql FILE SQL... runs statements one by one, each in its own transaction; prints the rows of each
judge.py shell FILE SQL  runs statements as sqlite3's shell does, and prints the rows as it does
judge.py watch FILE END  reads on one connection until a file END is there: each look must be one commit whole, and none
                         older than the last; prints how many commits it saw, and how many looks it took
judge.py session FILE    runs the statements of standard input, one a line, on one connection; answers each with a line,
                         `ok ROWS` or `error TEXT`, and ends like a crash: nothing is closed
"""

import itertools
import os
import sqlite3
import sys
import urllib.parse

from workload import MODULUS, row_hash

SETTINGS = ["page_size", "encoding", "user_version", "application_id", "auto_vacuum", "page_count"]


def open_to_read(path):
    """Reads without writing: a restored file has no WAL, and none may appear beside it."""
    alone = "" if os.path.exists(path + "-wal") else "&immutable=1"
    return sqlite3.connect(f"file:{urllib.parse.quote(os.path.abspath(path))}?mode=ro{alone}", uri=True, timeout=10)


def sound(path):
    connection = open_to_read(path)
    # One state for all that follows: others may be writing.
    connection.execute("BEGIN")
    found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    if found != ["ok"]:
        sys.exit(f"{path}: integrity check: {found[:3]}")
    (pages,), (size,) = (connection.execute(f"PRAGMA page_{what}").fetchone() for what in ("count", "size"))
    if not os.path.exists(path + "-wal") and os.path.getsize(path) != pages * size:
        sys.exit(f"{path}: {os.path.getsize(path)} bytes, and {pages} pages of {size}")
    return connection


def states(*paths):
    for path in paths:
        state(path)


def state(path):
    connection = sound(path)
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'm'").fetchone():
        return print(0, 0, 0, os.path.getsize(path))
    seq, total = connection.execute("SELECT seq, sum FROM m").fetchone() or (0, 0)
    rows = [row_hash(key, body) for key, body in connection.execute("SELECT id, body FROM t")]
    if sum(rows) % MODULUS != total:
        sys.exit(f"{path}: at seq {seq} the rows do not add up to m.sum: a mix of commits")
    print(seq, total, len(rows), os.path.getsize(path))


def content(connection):
    """Everything that SQL can see, as (where, value)."""
    for setting in SETTINGS:
        yield f"pragma {setting}", connection.execute(f"PRAGMA {setting}").fetchone()
    schema = list(connection.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY rowid"))
    yield "schema", schema
    for kind, name, *_ in schema:
        if kind == "table":
            quoted = name.replace('"', '""')
            for number, row in enumerate(connection.execute(f'SELECT * FROM "{quoted}"'), 1):
                yield f"{name}, row {number}", row


def equal(one, other):
    pairs = itertools.zip_longest(content(sound(one)), content(sound(other)))
    count = 0
    for count, (a, b) in enumerate(pairs, 1):
        if a != b:
            where = (a or b)[0]
            sys.exit(f"{one} and {other} differ: {where}: {str(a)[:200]} | {str(b)[:200]}")
    print(f"{one} and {other} are equal: {count} items")


def sql(path, *statements):
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    for statement in statements:
        print(*connection.execute(statement))
    connection.close()


def shell(path, statements):
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    for statement in filter(str.strip, statements.split(";")):
        for row in connection.execute(statement):
            print(*row, sep="|")
    connection.close()


def watch(path, end):
    connection = sqlite3.connect(f"file:{urllib.parse.quote(os.path.abspath(path))}?mode=ro", uri=True, timeout=10)
    last, looks, commits = -1, 0, 0
    while not os.path.exists(end):
        looks += 1
        connection.execute("BEGIN")
        seq, total = connection.execute("SELECT seq, sum FROM m").fetchone()
        rows = sum(row_hash(key, body) for key, body in connection.execute("SELECT id, body FROM t"))
        if rows % MODULUS != total:
            sys.exit(f"at seq {seq} the rows do not add up to m.sum: a mix of commits")
        if looks % 10 == 0 and (found := connection.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
            sys.exit(f"at seq {seq}: {found}")
        connection.execute("COMMIT")
        if seq < last:
            sys.exit(f"seq {seq} after {last}")
        commits += seq != last
        last = seq
    print(commits, looks)


def session(path):
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    for statement in sys.stdin:
        try:
            print("ok", *connection.execute(statement), flush=True)
        except sqlite3.Error as error:
            print("error", error, flush=True)
    os._exit(0)


if __name__ == "__main__":
    commands = {"state": states, "equal": equal, "sql": sql, "shell": shell, "session": session, "watch": watch}
    commands[sys.argv[1]](*sys.argv[2:])
