#!/usr/bin/env python3
"""This program beside Litestream 0.5.17, against one nats-server, in turn. `make bench` runs it.

    peer.py BINARY [-rounds N] [-quick] [-only GROUP,…] [-keep]

Each figure is the median of the rounds, with the least and the greatest. Seconds depend on the machine; what is worth
keeping is the ratio within one run. A goal is stated beforehand, and a row that misses it is shown so.
"""

import argparse
import base64
import json
import math
import os
import random
import sqlite3
import subprocess
import sys
import time

import applications
import follow
import month
import report
import rig
import strace
import watch

MB = 1e6


class Row:
    """One line of the table. `goal` says of (ours, peer, ours of any row) whether it is reached; `says` puts it in words,
    `why` what is in the way of one that is not, and `alone` that Litestream has
    nothing of the kind."""

    def __init__(self, key, title, unit, scale, says="", goal=None, why="", alone=False):
        self.key, self.title, self.unit, self.scale = key, title, unit, scale
        self.says, self.goal, self.why, self.alone = says, goal, why, alone


ROWS = [
    Row("idle-memory", "resident memory, idle, one database", "MB", 1 / MB, "a quarter", lambda o, p, _: o <= p / 4,
        "most of it is pages of the program and of shared libraries, as files"),
    Row("idle-cpu", "idle CPU", "%", 100, "0.02 %", lambda o, p, _: o <= 0.0002),
    Row("visible-p50", "commit to visible in the bucket, sparse writes: p50", "ms", 1000, "60 ms", lambda o, p, _: o <= 0.060),
    Row("visible-max", "the same: longest", "ms", 1000),
    Row("follow-p50-1", "commit to visible in the copy of restore -f, 1 commit/s: p50", "ms", 1000, "10 ms", lambda o, p, _: o <= 0.010),
    Row("follow-p99-1", "the same: p99", "ms", 1000),
    Row("follow-max-1", "the same: longest", "ms", 1000, "100 ms", lambda o, p, _: o <= 0.100),
    Row("follow-p50-100", "the same, 100 commits/s: p50", "ms", 1000, "10 ms", lambda o, p, _: o <= 0.010),
    Row("follow-p99-100", "the same: p99", "ms", 1000),
    Row("follow-max-100", "the same: longest", "ms", 1000, "100 ms", lambda o, p, _: o <= 0.100),
    Row("follow-sent-1", "bytes sent per commit with a follower, 1 commit/s", "", 1),
    Row("follow-sent-100", "the same: 100 commits/s", "", 1),
    Row("rest-messages", "messages per minute at rest, replicate and restore -f", "", 1),
    Row("rest-bytes", "the same: bytes on both links, keep-alives included", "", 1),
    Row("snapshot-time", "snapshot of 256 MB", "s", 1, "half", lambda o, p, _: o <= p / 2,
        "most of it is CPU time on two cores, which others used at the same time"),
    Row("snapshot-memory", "its peak memory", "MB", 1 / MB),
    Row("restore-time", "restore of that snapshot", "s", 1, "half", lambda o, p, _: o <= p / 2),
    Row("restore-memory", "its peak memory", "MB", 1 / MB),
    Row("restore-growth", "peak memory for 1024 MB, divided by that for 64 MB", "", 1, "1.1", lambda o, p, _: o <= 1.1),
    Row("stored-bytes", "bytes stored, divided by the size of the database", "", 1, "0.52", lambda o, p, _: o <= 0.52),
    Row("stored-noise", "the same for random bytes", "", 1, "1.001", lambda o, p, _: o <= 1.001),
    Row("stored-messages", "bytes stored per message of the stream", "kB", 1e-3, "128 KiB", lambda o, p, _: o >= 120e3),
    Row("beside", "application's commits/s, divided by its rate alone", "", 1, "0.7", lambda o, p, _: o >= 0.7),
    Row("truncate-failed", "application's own TRUNCATE checkpoint: failed", "%", 100, "none", lambda o, p, _: o == 0),
    Row("truncate-time", "the same: longest", "ms", 1000, "3 ticks", lambda o, p, _: o <= 0.150),
    Row("wal-size", "WAL at 13,000 commits/s, application's checkpoints off", "MB", 1 / MB, "64 MB", lambda o, p, _: o <= 64e6),
    Row("wal-free", "WAL after 15 s of commits at full speed", "MB", 1 / MB),
    Row("wal-rate", "its commits/s", "", 1),
    Row("wal-wait", "its longest commit", "ms", 1000),
    Row("plan", "restore plan after 100,000 segments were deleted", "s", 1, "as fresh", lambda o, p, of: o <= 1.5 * of["plan-fresh"]),
    Row("plan-fresh", "the same on a fresh bucket", "s", 1),
    Row("local", "local bytes written, divided by the size of the WAL", "", 1, "0", lambda o, p, _: o == 0),
    Row("far", "snapshot of 100 MB of incompressible data, 100 ms away", "s", 1, "2.1 s", lambda o, p, _: o <= 2.1),
    Row("link-up-100", "bytes sent per commit, 100 commits/s", "", 1, "1/10", lambda o, p, _: o <= p / 10,
        "a segment of this size is sent again when it is merged"),
    Row("link-down-100", "the same: received", "", 1, "less", lambda o, p, _: o <= p),
    Row("link-up-2", "bytes sent per commit, 2 commits/s", "", 1, "1/6", lambda o, p, _: o <= p / 6,
        "each object adds metadata and a request for the object that it replaces, 1 kB in all"),
    Row("link-down-2", "the same: received", "", 1, "less", lambda o, p, _: o <= p),
    Row("payload-1", "payload per commit, one commit per segment, geometric mean of eight applications", "bytes", 1, "1/20", lambda o, p, _: o <= p / 20),
    Row("payload-100", "the same: a hundred commits per segment", "bytes", 1, "1/3", lambda o, p, _: o <= p / 3),
    Row("day-up", "a day of 256 MB with a commit in 10 s: bytes sent", "MB", 1 / MB, "1/100", lambda o, p, _: o <= p / 100,
        "each of its 8,640 commits is an object of its own, with metadata of 1 kB"),
    Row("day-down", "the same: received", "MB", 1 / MB, "less", lambda o, p, _: o <= p),
    Row("boot-whole", "first copy of a database of 256 MB: bytes sent", "MB", 1 / MB),
    Row("boot-same", "start after a clean shutdown, nothing changed: bytes sent", "kB", 1e-3, "a few messages", lambda o, p, _: o <= 20e3),
    Row("boot-changed", "the same, rows in 1 % of the pages changed", "MB", 1 / MB, "1/30 of the whole", lambda o, p, of: o <= of["boot-whole"] / 30),
    Row("nightly", "snapshot, rows in 1 % of the pages changed: bytes sent", "MB", 1 / MB, "1/30 of the whole",
        lambda o, p, of: o <= of["boot-whole"] / 30, alone=True),
    Row("hourly", "an hour of 3,600 commits as one object, geometric mean of eight applications", "kB", 1e-3, "half", lambda o, p, _: o <= p / 2),
    Row("month", "30 days of one commit a second, thinned out (added up): bytes stored, geometric mean of eight applications", "MB", 1 / MB,
        "1/3", lambda o, p, _: o <= p / 3),
    Row("month-least", "the same, with only those files of Litestream that these moments need", "MB", 1 / MB, "1/3", lambda o, p, _: o <= p / 3,
        "of a database that only grows, most of it is snapshots"),
    Row("month-objects", "the same: objects older than a day, most of the eight", "", 1, "400", lambda o, p, _: o <= 400),
    Row("compact-memory", "compact, which makes rollups and a snapshot of a database of 256 MB: peak memory", "MB", 1 / MB, "32 MiB",
        lambda o, p, _: o <= 32 << 20, alone=True),
    Row("cpu-100", "CPU time per commit, 100 commits/s", "ms", 1000),
    Row("cpu-2", "the same: 2 commits/s", "ms", 1000),
    Row("copied", "WAL of text pages stored per second of CPU time", "MB", 1 / MB, "150 MB", lambda o, p, _: o >= 150e6),
    Row("verify", "verify of a live database of 1 GB", "s", 1, alone=True),
    Row("verify-live", "the same by its checksum alone: verify -live", "s", 1, "a second a GB", lambda o, p, _: o <= 1.2, alone=True),
    Row("binary", "size of the binary", "MB", 1 / MB, "6 MB", lambda o, p, _: o <= 6e6,
        "optimised for size alone it has 6.5 MB and copies the WAL a third slower; 0.4 MB are the TLS of the nats crate, which nothing calls"),
]
QUICK = ["idle", "visible", "copy", "beside", "truncate"]
DELETED = 100_000


class Groups(follow.Groups, month.Month):
    """Each measures one tool once and gives values by the key of their row."""

    # Which group gave a key, and in which Litestream failed.
    gave = {}
    failed = []

    def idle(self, tool):
        bucket = self.server.bucket()
        with self.following(tool, self.small(), bucket) as running:
            time.sleep(8)
            cpu, begin = running.cpu(), time.monotonic()
            time.sleep(12 if self.quick else 40)
            used = (running.cpu() - cpu) / (time.monotonic() - begin)
            return {"idle-memory": running.status("VmRSS"), "idle-cpu": used}

    def visible(self, tool):
        bucket, database, draw, waits = self.server.bucket(), self.small(), random.Random(7), []
        with self.following(tool, database, bucket), watch.Watch(self.server, tool, bucket) as seen:
            time.sleep(3)
            connection = sqlite3.connect(database, isolation_level=None)
            for number in range(8 if self.quick else 25):
                time.sleep(1.5 + 1.5 * draw.random())
                seen.forget()
                connection.execute("INSERT INTO t (body) VALUES (?)", (f"row {number}",))
                begin = time.time()
                waits.append(seen.next() - begin)
            connection.close()
        return {"visible-p50": rig.percentile(waits, 0.5), "visible-max": max(waits)}

    def copy(self, tool):
        database = self.template("mixed.db", "-fill", 256)
        bucket, size = self.server.bucket(), os.path.getsize(database)
        seconds, memory, _, _ = rig.timed(tool.once(database, self.server.url(bucket)))
        state, output = self.server.state(bucket), database + ".out"
        back, memory_back, _, _ = rig.timed(tool.restore(self.server.url(bucket), output))
        rig.same_rows(database, output)
        self.server.drop(bucket)
        return {
            "snapshot-time": seconds, "snapshot-memory": memory, "restore-time": back, "restore-memory": memory_back,
            "stored-bytes": state.bytes / size, "stored-messages": state.bytes / state.messages,
        }

    def noise(self, tool):
        database, bucket = self.template("bytes.db", "-fill", 64, "-noise"), self.server.bucket()
        size = os.path.getsize(database)
        rig.timed(tool.once(database, self.server.url(bucket)))
        state = self.server.state(bucket)
        self.server.drop(bucket)
        return {"stored-noise": state.bytes / size}

    def beside(self, tool):
        seconds = 4 if self.quick else 8
        database, bucket = self.small(), self.server.bucket()
        alone = rig.application(database, "-seconds", seconds)["rate"]
        with self.following(tool, database, bucket):
            time.sleep(2)
            rate = rig.application(database, "-seconds", seconds)["rate"]
        self.server.drop(bucket)
        return {"beside": rate / alone}

    def truncate(self, tool):
        database, bucket, times = self.small(), self.server.bucket(), 2 if self.quick else 5
        with self.following(tool, database, bucket):
            time.sleep(2)
            done = rig.application(database, "-truncate", times)
        return {"truncate-failed": done["busy"] / times, "truncate-time": max(done["waits"])}

    def burst(self, tool):
        """At the rate that a goal is stated for."""
        return {"wal-size": self.growing(tool, 13_000)[0]}

    def free(self, tool):
        """As fast as it goes."""
        largest, done = self.growing(tool, 0)
        return {"wal-free": largest, "wal-rate": done["rate"], "wal-wait": done["max_ms"] / 1000}

    def growing(self, tool, rate):
        database, bucket, largest = self.small(), self.server.bucket(), 0
        with self.following(tool, database, bucket):
            words = [sys.executable, rig.APPLICATION, database, "-seconds", "15", "-rate", str(rate), "-autocheckpoint", "0"]
            load = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            while load.poll() is None:
                largest = max(largest, os.path.getsize(database + "-wal"))
                time.sleep(0.02)
            done = json.load(load.stdout)
        self.server.drop(bucket)
        if done["rate"] < rate * 0.9:
            sys.exit(f"bench: the application made {done['rate']:.0f} commits/s, expected {rate}: nothing to compare with")
        return largest, done

    def local(self, tool):
        database, bucket, log = self.small(), self.server.bucket(), os.path.join(self.top, "frames")
        with self.following(tool, database, bucket) as running:
            time.sleep(2)
            with strace.Trace(running.pid, self.top) as calls:
                rig.application(database, "-seconds", 10, "-rate", 10, "-size", 500, "-noise", "-log", log)
                time.sleep(3)
        return {"local": calls.written(but=rig.files(database)) / rig.wal_bytes(log)}

    def far(self, tool):
        database, bucket = self.template("noise.db", "-fill", 100, "-noise"), self.server.bucket()
        proxy = rig.Proxy(self.server.port, 0.050)
        seconds, _, _, _ = rig.timed(tool.once(database, self.server.url(bucket, proxy.port)))
        self.server.drop(bucket)
        return {"far": seconds}

    def link(self, tool):
        """What changes cost on the link: an upsert of text by one of 5,000 keys a commit, everything counted."""
        found = {}
        for rate, seconds in ((100, 40), (2, 60)):
            database, bucket, proxy = self.template("upserts.db", "-keys", 5000), self.server.bucket(), rig.Proxy(self.server.port)
            with self.following(tool, database, bucket, port=proxy.port) as running:
                time.sleep(3)
                sent, received, used = proxy.sent, proxy.received, running.cpu()
                commits = rig.application(database, "-keys", 5000, "-seconds", seconds, "-rate", rate)["commits"]
                time.sleep(3)
                found[f"link-up-{rate}"] = (proxy.sent - sent) / commits
                found[f"link-down-{rate}"] = (proxy.received - received) / commits
                found[f"cpu-{rate}"] = (running.cpu() - used) / commits
            self.server.drop(bucket)
        return found

    def payload(self, tool):
        """What is stored of a commit of each application, and the geometric mean of that."""
        running = applications.Running(self.folder("applications"))
        # The peer knows no prefixes.
        buckets = [self.server.bucket() for _ in running.paths]
        # Merged objects would count twice; the peer's other levels are not counted.
        more = {"compaction": False} if tool.name == "ours" else {}
        dbs = [{"path": path, "replica": {"url": self.server.url(bucket), **more}} for path, bucket in zip(running.paths, buckets)]
        config = os.path.join(self.top, "applications.yml")
        with open(config, "w") as file:
            json.dump({"dbs": dbs}, file)
        found = {}
        with rig.Running([tool.binary, "replicate", "-config", config], self.top, tool.name) as process:
            for bucket in buckets:
                self.stored(process, bucket)
            for name, rate, seconds in (("payload-1", 0.7, 22), ("payload-100", 100, 6)):
                time.sleep(4)
                before = applications.segments(self.server, tool, buckets)
                commits = running.commit_at(rate, seconds)
                time.sleep(3)
                after = applications.segments(self.server, tool, buckets)
                new = [[data for key, data in now.items() if key not in then] for now, then in zip(after, before)]
                each = [sum(applications.payload(tool, data) for data in objects) / commits for objects in new]
                shown = ", ".join(f"{app} {value:.0f}" for app, value in zip(applications.APPLICATIONS, each))
                print(f"  {name} {tool.name}: {commits} commits: {shown}", file=sys.stderr, flush=True)
                found[name] = applications.geometric_mean(each)
        running.close()
        for bucket in buckets:
            self.server.drop(bucket)
        return found

    def copied(self, tool):
        """CPU time for a WAL that is there when the tool starts: what it takes when there is none is taken off."""
        database, bucket = self.template("upserts.db", "-keys", 5000), self.server.bucket()
        url = self.server.url(bucket)
        rig.timed(tool.once(database, url))
        # The WAL stays while a connection is open.
        held = sqlite3.connect(database)
        held.execute("SELECT count(*) FROM t").fetchone()
        once = rig.timed(tool.once(database, url))[2]
        rig.application(database, "-keys", 5000, "-seconds", 12, "-rate", 5000, "-autocheckpoint", 0)
        size = os.path.getsize(database + "-wal")
        used = rig.timed(tool.once(database, url))[2]
        held.close()
        self.server.drop(bucket)
        return {"copied": size / max(used - once, 1e-6)}

    def verify(self, tool):
        """The peer has no such command."""
        if tool.name == "peer":
            return {}
        database, bucket = self.template("large.db", "-fill", 64, "-double", 4), self.server.bucket()
        with self.following(tool, database, bucket) as running:
            rig.until("its snapshot", lambda: running.says("snapshot stored"))
            time.sleep(3)
            url = self.server.url(bucket)
            seconds, live = rig.timed(tool.verify(database, url))[0], rig.timed(tool.verify(database, url, "-live"))[0]
        rig.forget(database)
        self.server.drop(bucket)
        return {"verify": seconds, "verify-live": live}

    def plan(self, tool):
        database, bucket = self.small(), self.server.bucket()
        rig.timed(tool.once(database, self.server.url(bucket)))
        plan = lambda: min(rig.timed(tool.plan(self.server.url(bucket), database + ".out"))[0] for _ in range(3))
        fresh = plan()
        self.server.ask(lambda nc, js: delete_many(nc, tool, bucket, DELETED))
        used = plan()
        self.server.drop(bucket)
        return {"plan": used, "plan-fresh": fresh}

    def grow(self, tool):
        """Peaks of a restore of databases that are larger and larger."""
        peaks = []
        for doublings in (0, 4):
            database, bucket = self.template(f"grown{doublings}.db", "-fill", 64, "-double", doublings), self.server.bucket()
            # The peer gives up where the server has more to store than it queues (10167).
            rig.timed(tool.once(database, self.server.url(bucket)), attempts=5)
            output = database + ".out"
            peaks.append(rig.timed(tool.restore(self.server.url(bucket), output))[1])
            rig.same_rows(database, output)
            rig.forget(database, output)
            self.server.drop(bucket)
        return {"restore-growth": peaks[1] / peaks[0]}

    def binary(self, tool):
        return {"binary": tool.size()}


GROUPS = ["idle", "visible", "follow", "followed", "copy", "noise", "grow", "beside", "truncate", "burst", "free", "plan", "local", "far", "link", "payload", "copied",
          "verify", "day", "boot", "hourly", "month", "thin", "binary"]
# What does not vary is measured once.
ONCE = {"followed", "grow", "plan", "local", "link", "noise", "payload", "verify", "day", "boot", "hourly", "month", "thin", "binary"}


async def delete_many(nc, tool, bucket, count):
    """Leaves what `count` stored and deleted segments leave: the peer's markers for ever, and of ours a gap in the stream."""
    name = "ltx/0/{0:016x}-{0:016x}.ltx" if tool.name == "peer" else "gone/{:032x}"
    subjects = [f"$O.{bucket}.M." + base64.urlsafe_b64encode(name.format(1000 + n).encode()).decode() for n in range(count)]
    for number, subject in enumerate(subjects):
        marker = {"name": name.format(1000 + number), "bucket": bucket, "nuid": "%022d" % number, "size": 0, "chunks": 0,
                  "deleted": True, "mtime": "2026-11-01T00:00:00Z"}
        await rig.pipelined(nc, number, subject, json.dumps(marker).encode(), {"Nats-Rollup": "sub"})
    if tool.name == "ours":
        for number, subject in enumerate(subjects):
            await rig.pipelined(nc, number, f"$JS.API.STREAM.PURGE.OBJ_{bucket}", json.dumps({"filter": subject}).encode())
    await nc.flush(60)


def attempt(bench, group, tool):
    """What a group gives. The peer may fail where ours may not: its figures are then missing, and the bench ends with an error."""
    try:
        return getattr(bench, group)(tool)
    except SystemExit as failure:
        if tool.name != "peer":
            raise
        print(f"  {group}: {failure}", file=sys.stderr, flush=True)
        bench.failed.append(group)
        return {}


def measure(bench, tools, groups, rounds):
    values = {row.key: {tool.name: [] for tool in tools} for row in ROWS}
    for group in groups:
        for number in range(1 if group in ONCE else rounds):
            # In turn, and each first as often as the other.
            for tool in tools if number % 2 == 0 else tools[::-1]:
                found = attempt(bench, group, tool)
                for key, value in found.items():
                    values[key][tool.name].append(value)
                    bench.gave[key] = group
                shown = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
                print(f"  {group} {number + 1} {tool.name}: {shown}", file=sys.stderr, flush=True)
    return values


def summary(values):
    """The rows that were measured, as they are kept."""
    of = {key: rig.spread(found["ours"])["median"] for key, found in values.items() if found["ours"]}
    result = {}
    for row in ROWS:
        if not values[row.key]["ours"]:
            continue
        ours, peer = rig.spread(values[row.key]["ours"]), values[row.key]["peer"]
        peer = rig.spread(peer) if peer else None
        # Of a peer that failed nothing is known: a goal beside it is not reached.
        beside = peer["median"] if peer else math.nan
        ratio = ours["median"] / beside if beside else None
        reached = bool(row.goal(ours["median"], beside, of)) if row.goal else None
        ratio = ratio if peer else None
        result[row.key] = {"ours": ours, "peer": peer, "ratio": ratio, "reached": reached}
    return result


def shown(result):
    """Rows with their words, in order."""
    words = lambda row: {"title": row.title, "unit": row.unit, "scale": row.scale, "goal": row.says, "why": row.why, "alone": row.alone}
    return [{**words(row), **result[row.key]} for row in ROWS if row.key in result]


def worse(found, kept):
    """Rows that had reached their goal and do not now, though both programs ran side by side: the ratio must be worse too,
    by a quarter, or else the machine is only slower."""
    return [
        row.key for row in ROWS
        if (now := found.get(row.key)) and (then := kept.get(row.key)) and then["reached"] and now["reached"] is False
        and (None in (now["ratio"], then["ratio"]) or now["ratio"] > then["ratio"] * 1.25 or now["ratio"] < then["ratio"] / 1.25)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("-rounds", type=int)
    parser.add_argument("-quick", action="store_true", help="guards what was reached: the chief groups, one round, nothing is kept")
    parser.add_argument("-only", help="groups, with commas: " + " ".join(GROUPS))
    parser.add_argument("-keep", action="store_true", help="writes what was found into results.json, the plot and README")
    o = parser.parse_args()
    groups = o.only.split(",") if o.only else QUICK if o.quick else GROUPS
    rounds, tools = o.rounds or (1 if o.quick else 3), rig.tools(o.binary)
    with rig.scratch() as top, rig.Server(top) as server:
        bench = Groups(server, top, o.quick)
        found = summary(measure(bench, tools, groups, rounds))
        lost = worse(found, report.load()["peer"]) if o.quick else []
        if lost:
            # Once more, in case something else ran meanwhile.
            print("  again, for " + " ".join(lost), file=sys.stderr)
            found.update(summary(measure(bench, tools, sorted({bench.gave[key] for key in lost}), rounds)))
            lost = worse(found, report.load()["peer"])
    print("\n" + report.table(shown(found)))
    print("\n" + ", ".join(f"{key} {value}" for key, value in rig.machine().items()))
    if o.keep:
        report.save("peer", found)
        report.save("month", bench.parts)
    if bench.failed:
        sys.exit("bench: not measured of Litestream: " + ", ".join(bench.failed))
    if lost:
        sys.exit("bench: reached before, and not now: " + ", ".join(lost))


if __name__ == "__main__":
    main()
