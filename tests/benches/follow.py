"""How soon a commit is visible in the copy that `restore -f` keeps, and what the two programs say while nothing is written."""

import contextlib
import os
import sqlite3
import sys
import threading
import time

import rig

# Between two looks at the copy.
LOOK = 0.001
ROWS = "SELECT count(*) FROM t"


class Writer(threading.Thread):
    """Commits at a rate; when each commit was done, by the number of rows that are there then."""

    def __init__(self, database, rate, seconds):
        super().__init__(daemon=True)
        self.database, self.rate, self.commits = database, rate, int(rate * seconds)
        self.done, self.over = {}, threading.Event()

    def run(self):
        connection = sqlite3.connect(self.database, isolation_level=None)
        first, begin = connection.execute(ROWS).fetchone()[0], time.monotonic()
        for number in range(self.commits):
            time.sleep(max(0, begin + number / self.rate - time.monotonic()))
            connection.execute("INSERT INTO t (body) VALUES (?)", (f"row {number}",))
            self.done[first + number + 1] = time.monotonic()
        connection.close()
        self.over.set()


def rows(copy):
    """Rows that a new connection sees in a copy: one that stays open does not see Litestream's changes. None while it cannot
    be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True, isolation_level=None, timeout=0)) as connection:
            return connection.execute(ROWS).fetchone()[0]
    except sqlite3.DatabaseError:
        return None


@contextlib.contextmanager
def followed(bench, tool, port=None):
    """A database with its replicator, and a copy with its follower."""
    bucket, database = bench.server.bucket(), bench.small()
    output = database + ".copy"
    with bench.following(tool, database, bucket, port):
        words = tool.follow(bench.server.url(bucket, port), output)
        with rig.Running(words, bench.top, tool.name + "-follow") as follower:
            rig.until("the copy", lambda: follower.alive() or os.path.exists(output))
            yield database, output
    bench.server.drop(bucket)


def waits(bench, tool, rate, seconds):
    """For each commit the seconds until a reader of the copy saw it."""
    with followed(bench, tool) as (database, copy):
        found, seen = [], rows(database)
        rig.until("the copy is complete", lambda: rows(copy) == seen)
        time.sleep(3)
        writer = Writer(database, rate, seconds)
        last, end = seen + writer.commits, time.monotonic() + seconds + 60
        writer.start()
        while seen < last:
            reached, now = rows(copy) or seen, time.monotonic()
            if now > end:
                sys.exit(f"bench: {last - seen} commits are not in the copy")
            for number in range(seen + 1, reached + 1):
                rig.until("the commit", lambda: number in writer.done, step=LOOK)
                found.append(max(0, now - writer.done[number]))
            seen = max(seen, reached)
            time.sleep(LOOK)
        writer.join()
    return found


def sent(bench, tool, rate, seconds):
    """Bytes that the replicator sends for each commit while it is followed, merging included."""
    proxy, direct = rig.Proxy(bench.server.port), bench.server.port
    bucket, database = bench.server.bucket(), bench.template("upserts.db", "-keys", 5000)
    with bench.following(tool, database, bucket, proxy.port):
        with rig.Running(tool.follow(bench.server.url(bucket, direct), database + ".copy"), bench.top, tool.name + "-follow"):
            rig.until("the copy", lambda: os.path.exists(database + ".copy"))
            time.sleep(3)
            before = proxy.sent
            commits = rig.application(database, "-keys", 5000, "-seconds", seconds, "-rate", rate)["commits"]
            time.sleep(3)
            total = proxy.sent - before
    bench.server.drop(bucket)
    return total / commits


def at_rest(bench, tool, seconds):
    """Messages that the server received and sent, and bytes on the links of both programs, a minute."""
    proxy = rig.Proxy(bench.server.port)
    with followed(bench, tool, proxy.port):
        time.sleep(10)
        messages, links = bench.server.messages(), proxy.sent + proxy.received
        time.sleep(seconds)
        return (bench.server.messages() - messages) * 60 / seconds, (proxy.sent + proxy.received - links) * 60 / seconds


class Groups:
    """Groups of peer.py."""

    def follow(self, tool):
        """At both rates, with defaults."""
        found = {}
        for rate, seconds in ((1, 20 if self.quick else 60), (100, 10 if self.quick else 30)):
            late = waits(self, tool, rate, seconds)
            found.update({f"follow-p50-{rate}": rig.percentile(late, 0.5), f"follow-p99-{rate}": rig.percentile(late, 0.99),
                          f"follow-max-{rate}": max(late)})
        return found

    def followed(self, tool):
        """What it costs on the links."""
        messages, links = at_rest(self, tool, 20 if self.quick else 120)
        costs = {f"follow-sent-{rate}": sent(self, tool, rate, seconds) for rate, seconds in ((1, 40), (100, 30))}
        return {"rest-messages": messages, "rest-bytes": links, **costs}
