#!/usr/bin/env python3
"""This program beside Litestream 0.5.17, against one nats-server, in turn. `make bench` runs it.

    peer.py BINARY [-rounds N] [-quick] [-only GROUP,…] [-json FILE] [-svg FILE]

Each figure is the median of the rounds, with the least and the greatest. Seconds depend on the machine; what is worth
keeping is the ratio within one run. A goal is PRODUCT's, and a row that misses it is shown so.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time

import plot
import rig
import nats.js.api  # noqa: E402 (rig says where it is)

MB = 1e6


class Row:
    """One line of the table. `goal` says of (ours, peer) whether it is reached; `says` puts it in words."""

    def __init__(self, key, title, unit, scale, says, goal):
        self.key, self.title, self.unit, self.scale, self.says, self.goal = key, title, unit, scale, says, goal


ROWS = [
    Row("idle-memory", "resident memory, idle, one database", "MB", 1 / MB, "a quarter", lambda o, p: o <= p / 4),
    Row("idle-cpu", "idle CPU", "%", 100, "0.02 %", lambda o, p: o <= 0.0002),
    Row("visible-p50", "commit to visible, sparse writes: p50", "ms", 1000, "60 ms", lambda o, p: o <= 0.060),
    Row("visible-max", "commit to visible, sparse writes: max", "ms", 1000, "", None),
    Row("snapshot-time", "snapshot of 256 MB", "s", 1, "half", lambda o, p: o <= p / 2),
    Row("snapshot-memory", "its peak of memory", "MB", 1 / MB, "", None),
    Row("restore-time", "restore of it", "s", 1, "half", lambda o, p: o <= p / 2),
    Row("restore-memory", "its peak of memory", "MB", 1 / MB, "", None),
    Row("stored-bytes", "bytes stored, as a part of the database", "", 1, "0.60", lambda o, p: o <= 0.60),
    Row("stored-messages", "messages stored, one a so many kB of object", "kB", 1, "128 KiB", lambda o, p: o >= 120),
    Row("beside", "application's commits/s beside it, of its rate alone", "", 1, "0.7", lambda o, p: o >= 0.7),
    Row("truncate-failed", "application's own TRUNCATE: failed", "%", 100, "none", lambda o, p: o == 0),
    Row("truncate-time", "application's own TRUNCATE: longest", "ms", 1000, "3 ticks", lambda o, p: o <= 0.150),
    Row("wal-size", "WAL under a tight loop, application's checkpoints off", "MB", 1 / MB, "64 MB", lambda o, p: o <= 64e6),
    Row("wal-rate", "commits/s in that loop", "", 1, "", None),
    Row("plan", "restore from a bucket where 100,000 segments were deleted", "s", 1, "as fresh", None),
    Row("plan-fresh", "restore of the same from a fresh bucket", "s", 1, "", None),
    Row("local", "local bytes written beside database and WAL, of the WAL's", "", 1, "0", lambda o, p: o <= 0.001),
    Row("far", "snapshot of 100 MB that does not compress, 100 ms away", "s", 1, "2.1 s", lambda o, p: o <= 2.1),
    Row("binary", "size of the binary", "MB", 1 / MB, "6 MB", lambda o, p: o <= 6e6),
]
QUICK = ["idle", "visible", "copy", "beside", "truncate"]
DELETED = 100_000


class Bench:
    def __init__(self, server, top, quick):
        self.server, self.top, self.quick = server, top, quick
        self.made = {}

    def folder(self, name):
        path = os.path.join(self.top, "db")
        rig.forget(path)
        os.makedirs(path)
        return os.path.join(path, name)

    def template(self, name, *words):
        """A database made once, and copied for each round."""
        if name not in self.made:
            self.made[name] = os.path.join(self.top, name)
            rig.application(self.made[name], *words)
        path = self.folder(name)
        shutil.copyfile(self.made[name], path)
        return path

    def small(self):
        path = self.folder("app.db")
        rig.application(path, "-seconds", 0.2, "-rate", 100)
        return path

    def following(self, tool, database, bucket, port=None):
        """The tool beside the database, once its first copy is stored."""
        running = rig.Running(tool.replicate(database, self.server.url(bucket, port)), self.top, tool.name)

        def stored():
            running.alive()
            return self.server.state(bucket).messages > 0

        rig.until(f"{tool.name}'s first copy", stored, step=0.1)
        return running

    # --- the groups: each measures one tool once and gives values by the key of their row

    def idle(self, tool):
        bucket = self.server.bucket()
        with self.following(tool, self.small(), bucket) as running:
            time.sleep(8)
            cpu, begin = running.cpu(), time.monotonic()
            time.sleep(15 if self.quick else 40)
            used = (running.cpu() - cpu) / (time.monotonic() - begin)
            return {"idle-memory": running.status("VmRSS"), "idle-cpu": used}

    def visible(self, tool):
        bucket, database = self.server.bucket(), self.small()
        with self.following(tool, database, bucket):
            time.sleep(3)
            waits = self.server.ask(lambda nc, js: watched(js, tool, bucket, database, 10 if self.quick else 25))
        return {"visible-p50": rig.percentile(waits, 0.5), "visible-max": max(waits)}

    def copy(self, tool):
        database = self.template("mixed.db", "-fill", 64 if self.quick else 256)
        bucket, size = self.server.bucket(), os.path.getsize(database)
        seconds, memory, _, _ = rig.timed(tool.once(database, self.server.url(bucket)))
        state, output = self.server.state(bucket), database + ".out"
        back, memory_back, _, _ = rig.timed(tool.restore(self.server.url(bucket), output))
        same_rows(database, output)
        self.server.drop(bucket)
        return {
            "snapshot-time": seconds, "snapshot-memory": memory, "restore-time": back, "restore-memory": memory_back,
            "stored-bytes": state.bytes / size, "stored-messages": state.bytes / state.messages / 1000,
        }

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
        database, bucket, largest = self.small(), self.server.bucket(), 0
        with self.following(tool, database, bucket):
            words = [sys.executable, rig.APPLICATION, database, "-seconds", "15", "-autocheckpoint", "0"]
            load = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            while load.poll() is None:
                largest = max(largest, os.path.getsize(database + "-wal"))
                time.sleep(0.02)
            rate = json.load(load.stdout)["rate"]
        self.server.drop(bucket)
        return {"wal-size": largest, "wal-rate": rate}

    def local(self, tool):
        if not shutil.which("strace"):
            return {}
        database, bucket = self.small(), self.server.bucket()
        wal = 0
        with self.following(tool, database, bucket) as running:
            time.sleep(2)
            trace = os.path.join(self.top, "strace")
            calls = "write,writev,pwrite64,pwritev,pwritev2,ftruncate"
            watch = subprocess.Popen(["strace", "-f", "-y", "-qq", "-s", "0", "-e", "trace=" + calls, "-p", str(running.pid), "-o", trace])
            time.sleep(1)
            log = os.path.join(self.top, "frames")
            rig.application(database, "-seconds", 8, "-rate", 200, "-log", log)
            time.sleep(3)
            watch.terminate()
            watch.wait()
            wal = frames_written(log) * 4120
        return {"local": written_elsewhere(trace, database, self.top) / wal}

    def far(self, tool):
        database, bucket = self.template("noise.db", "-fill", 100, "-noise"), self.server.bucket()
        proxy = rig.Proxy(self.server.port, 0.050)
        seconds, _, _, _ = rig.timed(tool.once(database, self.server.url(bucket, proxy.port)))
        self.server.drop(bucket)
        return {"far": seconds}

    def plan(self, tool):
        database, bucket, output = self.small(), self.server.bucket(), os.path.join(self.top, "out.db")
        rig.timed(tool.once(database, self.server.url(bucket)))
        fresh, _, _, _ = rig.timed(tool.restore(self.server.url(bucket), output))
        rig.forget(output)
        self.server.ask(lambda nc, js: delete_many(nc, js, tool, bucket, DELETED))
        used, _, _, _ = rig.timed(tool.restore(self.server.url(bucket), output))
        rig.forget(output)
        self.server.drop(bucket)
        return {"plan": used, "plan-fresh": fresh}

    def binary(self, tool):
        return {"binary": tool.size()}


GROUPS = ["idle", "visible", "copy", "beside", "truncate", "burst", "plan", "local", "far", "binary"]
# What does not vary is measured once.
ONCE = {"plan", "local", "binary"}


async def watched(js, tool, bucket, database, times):
    """Seconds from each of `times` sparse commits until the store has it for anyone to read."""
    seen, waits, draw = asyncio.Queue(), [], random.Random(7)

    async def on(message):
        name = base64.urlsafe_b64decode(message.subject.rsplit(".", 1)[1]).decode()
        if tool.is_segment(name):
            seen.put_nowait(time.monotonic())

    watch = await js.subscribe(f"$O.{bucket}.M.>", cb=on, ordered_consumer=True, deliver_policy=nats.js.api.DeliverPolicy.NEW)
    connection = sqlite3.connect(database, isolation_level=None)
    for number in range(times):
        await asyncio.sleep(1.5 + 1.5 * draw.random())
        while not seen.empty():
            seen.get_nowait()
        connection.execute("INSERT INTO t (body) VALUES (?)", (f"row {number}",))
        begin = time.monotonic()
        waits.append(await asyncio.wait_for(seen.get(), 30) - begin)
    connection.close()
    await watch.unsubscribe()
    return waits


async def delete_many(nc, js, tool, bucket, count):
    """Leaves what `count` stored and deleted segments leave: the peer's markers for ever, and of ours a gap in the stream."""
    name = "ltx/0/{0:016x}-{0:016x}.ltx" if tool.name == "peer" else "gone/{:032x}"
    subjects = [f"$O.{bucket}.M." + base64.urlsafe_b64encode(name.format(1000 + n).encode()).decode() for n in range(count)]
    for number, subject in enumerate(subjects):
        marker = {"name": name.format(1000 + number), "bucket": bucket, "nuid": "%022d" % number, "size": 0, "chunks": 0,
                  "deleted": True, "mtime": "2026-11-01T00:00:00Z"}
        await pipelined(nc, number, subject, json.dumps(marker).encode(), {"Nats-Rollup": "sub"})
    if tool.name == "ours":
        for number, subject in enumerate(subjects):
            await pipelined(nc, number, f"$JS.API.STREAM.PURGE.OBJ_{bucket}", json.dumps({"filter": subject}).encode())
    await nc.flush(60)


async def pipelined(nc, number, subject, body, headers=None):
    """Each 500th waits for its answer, so that no queue of the server overflows."""
    if number % 500 == 499:
        await nc.request(subject, body, timeout=60, headers=headers)
    else:
        await nc.publish(subject, body, reply="_INBOX.nobody", headers=headers)


def frames_written(log):
    """Frames in all the WALs that a log of application.py tells of."""
    last = {}
    with open(log) as file:
        for line in file:
            _, salt, frames = line.split()
            last[salt] = int(frames)
    return sum(last.values())


def written_elsewhere(trace, database, top):
    """Bytes that went to files other than the database, its WAL and its index, the log not counted."""
    total, own = 0, (database, database + "-wal", database + "-shm")
    with open(trace) as file:
        for line in file:
            found = re.search(r"p?write(?:v|64)?2?\(\d+<([^>]*)>.*= (\d+)$", line)
            if found and found[1].startswith(os.path.dirname(database)) and found[1] not in own:
                total += int(found[2])
    return total


def same_rows(first, second):
    """A copy that differs would be no figure at all. Litestream adds tables of its own, so rows are compared."""
    rows = [sqlite3.connect(path).execute("SELECT count(*), sum(id), sum(length(body)) FROM t").fetchone() for path in (first, second)]
    if rows[0] != rows[1]:
        sys.exit(f"bench: restored {rows[1]}, expected {rows[0]}")


def measure(bench, tools, groups, rounds):
    values = {row.key: {tool.name: [] for tool in tools} for row in ROWS}
    for group in groups:
        for number in range(1 if group in ONCE else rounds):
            # In turn, and each first as often as the other.
            for tool in tools if number % 2 == 0 else tools[::-1]:
                found = getattr(bench, group)(tool)
                for key, value in found.items():
                    values[key][tool.name].append(value)
                shown = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
                print(f"  {group} {number + 1} {tool.name}: {shown}", file=sys.stderr, flush=True)
    return values


def summary(values):
    result = []
    for row in ROWS:
        ours, peer = (values[row.key][name] for name in ("ours", "peer"))
        if not ours or not peer:
            continue
        ours, peer = rig.spread(ours), rig.spread(peer)
        reached = row.goal(ours["median"], peer["median"]) if row.goal else None
        ratio = ours["median"] / peer["median"] if peer["median"] else None
        result.append({"key": row.key, "title": row.title, "ours": ours, "peer": peer, "ratio": ratio, "goal": row.says, "reached": reached})
    return result


def figure(spread, row):
    digits = lambda value: f"{value * row.scale:.3g}" if value * row.scale < 1000 else f"{value * row.scale:.0f}"
    alone = digits(spread["median"])
    return alone if spread["n"] == 1 or spread["min"] == spread["max"] else f"{alone} ({digits(spread['min'])}-{digits(spread['max'])})"


def table(result):
    rows = {row.key: row for row in ROWS}
    print("\n| what | unit | Litestream " + rig.PEER + " | ours | ratio | goal | |\n|---|---|---|---|---|---|---|")
    for line in result:
        row = rows[line["key"]]
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2g}"
        mark = {True: "yes", False: "no", None: ""}[line["reached"]]
        print(f"| {row.title} | {row.unit} | {figure(line['peer'], row)} | {figure(line['ours'], row)} | {ratio} | {row.says} | {mark} |")


def draw(result, path):
    rows = {row.key: row for row in ROWS}
    bars = [
        (line["title"], line["ratio"], f"{figure(line['ours'], rows[line['key']])} to {figure(line['peer'], rows[line['key']])} {rows[line['key']].unit}")
        for line in result if line["ratio"]
    ]
    plot.ratios(path, f"Ours as a part of Litestream {rig.PEER} (1: the same)", bars)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("-rounds", type=int)
    parser.add_argument("-quick", action="store_true")
    parser.add_argument("-only")
    parser.add_argument("-json")
    parser.add_argument("-svg")
    o = parser.parse_args()
    groups = o.only.split(",") if o.only else QUICK if o.quick else GROUPS
    tools = rig.tools(o.binary)
    with rig.scratch() as top:
        server = rig.Server(top)
        try:
            values = measure(Bench(server, top, o.quick), tools, groups, o.rounds or (1 if o.quick else 3))
        finally:
            server.stop()
    result = summary(values)
    table(result)
    print("\n" + ", ".join(f"{key} {value}" for key, value in rig.machine().items()))
    if o.json:
        with open(o.json, "w") as file:
            json.dump({"machine": rig.machine(), "peer": rig.PEER, "rows": result}, file, indent=1)
    if o.svg:
        draw(result, o.svg)


main()
