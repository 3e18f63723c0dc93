"""What a history costs: a day on the link, a start, a nightly snapshot, and an hour that is thinned out. Standard library
and nats-py only."""

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time

import applications
import rig

COMMITS_OF_A_DAY = 86_400 // 10
HOUR = 3600


def write(path, config):
    with open(path, "w") as file:
        json.dump(config, file)
    return path


class Thinned(rig.Bench):
    """A group of `peer.py`."""

    def day(self, tool):
        """A database of 256 MB with a commit in ten seconds, ten times as fast. Compaction of ours is elsewhere."""
        database, bucket = self.template("mixed.db", "-fill", 256), self.server.bucket()
        proxy, speed, seconds = rig.Proxy(self.server.port), 10, 60
        entry = {"path": database, "replica": {"url": self.server.url(bucket, proxy.port)}}
        if tool.name == "ours":
            entry["replica"]["compaction"] = False
            config = {"dbs": [{**entry, "keep": {"all": "24h", "hourly": "7d"}}]}
        else:
            config = {"levels": [{"interval": f"{30 // speed}s"}, {"interval": f"{300 // speed}s"}], "dbs": [entry]}
        config = write(os.path.join(self.top, "day.yml"), config)
        with rig.Running([tool.binary, "replicate", "-config", config], self.top, tool.name) as running:
            self.quiet(running, proxy, bucket)
            sent, received, draw = proxy.sent, proxy.received, random.Random(3)
            connection, begin = sqlite3.connect(database, isolation_level=None), time.monotonic()
            rows = connection.execute("SELECT max(id) FROM t").fetchone()[0]
            for number in range(seconds * speed // 10):
                connection.execute("UPDATE t SET body = body || ? WHERE id = ?", (f" {number}", draw.randrange(1, rows)))
                time.sleep(max(0, begin + (number + 1) * 10 / speed - time.monotonic()))
            time.sleep(3)
            connection.close()
            commits = seconds * speed // 10
            up, down = (proxy.sent - sent) / commits, (proxy.received - received) / commits
        # Litestream sends the database once more each day: as many bytes as its largest object, which is the first copy.
        again = max(self.sizes(bucket, r"ltx/")) if tool.name == "peer" else 0
        self.server.drop(bucket)
        return {"day-up": COMMITS_OF_A_DAY * up + again, "day-down": COMMITS_OF_A_DAY * down}

    def sizes(self, bucket, pattern):
        """Of the objects whose names begin so, in the order of the names."""
        async def read(_, js):
            entries = await (await js.object_store(bucket)).list()
            return [entry.size for entry in sorted(entries, key=lambda entry: entry.name) if re.match(pattern, entry.name)]

        return self.server.ask(read)

    def boot(self, tool):
        """Bytes sent by a start after the last connection closed the database and removed its WAL; and by a snapshot then."""
        database, bucket = self.template("mixed.db", "-fill", 256), self.server.bucket()
        proxy, draw = rig.Proxy(self.server.port), random.Random(5)
        url = self.server.url(bucket, proxy.port)
        rig.timed(tool.once(database, url))
        found = {"boot-whole": proxy.sent}
        steps = [("boot-same", 0, tool.once), ("boot-changed", 0.01, tool.once)]
        if tool.name == "ours":
            steps.append(("nightly", 0.01, tool.snapshot))
        for key, part, words in steps:
            change(database, part, draw)
            before = proxy.sent
            rig.timed(words(database, url))
            found[key] = proxy.sent - before
        self.server.drop(bucket)
        return found

    def hourly(self, tool):
        """Bytes stored for an hour with 3,600 commits of each application, thinned out to its last state."""
        running = applications.Running(self.folder("applications"))
        buckets = [self.server.bucket() for _ in running.paths]
        each = (self.hour_of_peer if tool.name == "peer" else self.hour_of_ours)(tool, running, buckets)
        shown = ", ".join(f"{app} {size:,}" for app, size in zip(applications.APPLICATIONS, each))
        print(f"  hourly {tool.name}: {shown}", file=sys.stderr, flush=True)
        running.close()
        for bucket in buckets:
            self.server.drop(bucket)
        return {"hourly": applications.geometric_mean(each)}

    def hour_of_peer(self, tool, running, buckets):
        """Its level 1 stands for that of an hour: the commits of two minutes in one file of the changed pages."""
        interval = 120
        dbs = [{"path": path, "replica": {"url": self.server.url(bucket)}} for path, bucket in zip(running.paths, buckets)]
        config = write(os.path.join(self.top, "hour.yml"), {"levels": [{"interval": f"{interval}s"}], "dbs": dbs})
        with rig.Running([tool.binary, "replicate", "-config", config], self.top, tool.name) as process:
            for bucket in buckets:
                self.stored(process, bucket)
            # A file of the first copy alone ends before the commits begin, and one of nothing else after them.
            wait_for_interval(interval)
            time.sleep(10)
            before = [self.sizes(bucket, r"ltx/1/") for bucket in buckets]
            commit_all(running, HOUR, 70)
            wait_for_interval(interval)
            time.sleep(10)
            after = [self.sizes(bucket, r"ltx/1/") for bucket in buckets]
        if any(len(now) != len(then) + 1 for now, then in zip(after, before)):
            sys.exit(f"bench: hourly: expected one more file of level 1 each, found {before} and {after}")
        return [now[-1] for now in after]

    def hour_of_ours(self, tool, running, buckets):
        """With a wall clock that makes the commits those of one hour, and then lets it pass."""
        shift = clock_offset(self.top)
        # The program with shared libraries: the clock of the static one cannot be set.
        binary = os.path.join(rig.ROOT, "target", "release", "litestream")
        urls = [self.server.url(bucket) for bucket in buckets]
        dbs = [{"path": path, "replica": {"url": url, "compaction": False}} for path, url in zip(running.paths, urls)]
        replicate = [binary, "replicate", "-config", write(os.path.join(self.top, "hour.yml"), {"dbs": dbs})]
        start = HOUR - time.time() % HOUR
        with rig.Running(replicate, self.top, tool.name, env=shift(start - 600)) as process:
            for bucket in buckets:
                self.stored(process, bucket)
        with rig.Running(replicate, self.top, tool.name, env=shift(start + 60)):
            time.sleep(2)
            commit_all(running, HOUR, 70)
            time.sleep(2)
        with rig.Running(replicate, self.top, tool.name, env=shift(start + 5 * HOUR)):
            time.sleep(2)
            running.commit()
            time.sleep(2)
        for url in urls:
            # A pass deletes nothing while the clock looks wrong, nor what was new at the pass before it.
            compact = [binary, "compact", "-once", "-keep", "all=1h,hourly=7d", url]
            rig.timed(compact, env=shift(start + 5 * HOUR + 300))
        rollups = r"generations/\w+/wal/\S+-19700101T000000.000Z-"
        found = [self.sizes(bucket, rollups) for bucket in buckets]
        return [max(sizes) for sizes in found]

    def thin(self, tool):
        """Memory of a pass of compact over a database of 256 MB. In each of two hours a third of it changed: it makes two rollups
        and a snapshot of that. Litestream has no such command."""
        if tool.name == "peer":
            return {}
        database, bucket, shift = self.template("mixed.db", "-fill", 256), self.server.bucket(), clock_offset(self.top)
        # The program with shared libraries: the clock of the static one cannot be set.
        binary = os.path.join(rig.ROOT, "target", "release", "litestream")
        config = write(os.path.join(self.top, "thin.yml"), {"dbs": [{"path": database, "replica": {
            "url": self.server.url(bucket), "compaction": False}, "keep": {"all": "1h", "hourly": "7d"}}]})
        # The last second of the hour before, and then in the midst of these hours.
        begin = -(time.time() % HOUR) - 8 * HOUR
        rig.timed([binary, "replicate", "-once", "-config", config], env=shift(begin))
        # Open until the end: the last one to close it would remove its WAL.
        connection = sqlite3.connect(database, isolation_level=None)
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        for hour, parts in ((0, (0, 1 / 3)), (1, (1 / 3, 2 / 3)), (6, (0, 1e-5))):
            rewrite(connection, *parts)
            rig.timed([binary, "replicate", "-once", "-config", config], env=shift(begin + (hour + 0.5) * HOUR))
        connection.close()
        peak = rig.timed([tool.binary, "compact", "-once", "-keep", "all=1h,hourly=7d", self.server.url(bucket)])[1]
        rollups = self.sizes(bucket, r"generations/\w+/wal/\S+-19700101T000000.000Z-")
        snapshots = self.sizes(bucket, r"generations/\w+/snapshots/")
        print(f"  thin: rollups {rollups}, snapshots {snapshots}", file=sys.stderr, flush=True)
        if len(rollups) != 2 or len(snapshots) < 2:
            sys.exit(f"bench: thin: expected two rollups and a snapshot of what is stored, found {rollups} and {snapshots}")
        rig.forget(database)
        self.server.drop(bucket)
        return {"compact-memory": peak}

    def quiet(self, running, proxy, bucket):
        """Waits until the first copy is stored."""
        self.stored(running, bucket, 100)
        before, since = -1, time.monotonic()
        # Litestream sends the first copy once more for each of its levels.
        while time.monotonic() - since < 45:
            if proxy.sent - before > 20_000:
                before, since = proxy.sent, time.monotonic()
            time.sleep(0.2)


def change(database, part, draw):
    """Writes over a row in so many of the pages, as the only connection, which checkpoints and removes the WAL at its end."""
    connection = sqlite3.connect(database, isolation_level=None)
    rows = connection.execute("SELECT max(id) FROM t").fetchone()[0]
    connection.execute("BEGIN")
    for _ in range(int(part * connection.execute("PRAGMA page_count").fetchone()[0])):
        connection.execute("UPDATE t SET body = substr(body, 2) || substr(body, 1, 1) WHERE id = ?", (draw.randrange(1, rows),))
    connection.execute("COMMIT")
    connection.close()
    if os.path.exists(database + "-wal"):
        sys.exit(f"bench: {database}-wal is still there")


def rewrite(connection, first, last):
    """Other random text in the rows of this part of a database, in many transactions."""
    rows = connection.execute("SELECT max(id) FROM t").fetchone()[0]
    for begin in range(int(first * rows), int(last * rows) + 1, 1000):
        end = min(begin + 1000, int(last * rows) + 1)
        connection.execute("UPDATE t SET body = hex(randomblob(length(body) / 2)) WHERE id >= ? AND id < ?", (begin, end))


def commit_all(running, count, seconds):
    """So many commits in each database, spread over so many seconds if the machine can."""
    begin = time.monotonic()
    for number in range(count):
        running.commit()
        time.sleep(max(0, begin + (number + 1) * seconds / count - time.monotonic()))


def wait_for_interval(interval):
    """Until a moment is past that the interval divides: there Litestream ends the files of a level."""
    time.sleep(interval - time.time() % interval)


def clock_offset(top):
    """The environment of a program whose wall clock is so many seconds ahead, as a function of these."""
    library = os.path.join(top, "clock_offset.so")
    source = os.path.join(rig.ROOT, "tests", "support", "clock_offset.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return lambda seconds: {**os.environ, "LD_PRELOAD": library, "CLOCK_OFFSET": str(int(seconds))}
