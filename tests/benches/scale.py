#!/usr/bin/env python3
"""Where the limits are: many databases, a large one, a long history, many commits, a small machine. `make bench-scale` runs it.

    scale.py BINARY [-only GROUP,…] [-keep]

The program alone against one nats-server, but for `application` and `databases`, which are beside Litestream too. With
-keep what was found goes into results.json, the plots and README.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import budget
import encryption
import history
import report
import rig
import strace
import watch

TICK = 0.050
MB = 1e6
HISTORY = 100_000


def percentiles(waits):
    """p50, p99, p99.9 and the longest, in seconds, and of how many."""
    return {"p50": rig.percentile(waits, 0.5), "p99": rig.percentile(waits, 0.99), "p999": rig.percentile(waits, 0.999),
            "max": max(waits), "n": len(waits)}


class Scale(rig.Bench):
    """Each group gives its figures as they are kept."""

    def __init__(self, server, top, ours, peer):
        super().__init__(server, top)
        self.ours, self.peer = ours, peer

    def configured(self, databases, name="config.yml", **more):
        """A configuration file for (path, URL) each. JSON is YAML."""
        path = os.path.join(self.top, name)
        dbs = [{"path": path, "replica": {"url": url}} for path, url in databases]
        with open(path, "w") as file:
            json.dump({"dbs": dbs, **more}, file)
        return path

    def replicate(self, config):
        return rig.Running([self.ours.binary, "-config", config, "replicate"], self.top, "ours")

    def many_small(self, count):
        """(path, prefix in the bucket) of so many databases."""
        source, paths = os.path.join(self.top, "one.db"), []
        rig.forget(source)
        rig.application(source, "-seconds", 0.1, "-rate", 50)
        folder = os.path.dirname(self.folder(""))
        for number in range(count):
            paths.append(os.path.join(folder, f"{number:04d}.db"))
            shutil.copyfile(source, paths[-1])
        return [(path, f"p{number}/") for number, path in enumerate(paths)]

    # --- the groups

    def databases(self):
        """1, 10, 100 and 1,000 in one process, of each program."""
        return [{**self.of_databases(count), "peer": self.of_peer(count)} for count in (1, 10, 100, 1000)]

    def of_databases(self, count):
        bucket = self.server.bucket()
        databases = self.many_small(count)
        config = self.configured([(path, self.server.url(bucket) + "/" + prefix) for path, prefix in databases])
        begin = time.monotonic()
        with self.replicate(config) as running:
            self.stored(running, bucket, 2 * count)
            started = time.monotonic() - begin
            rest = at_rest(running)
            with watch.Watch(self.server, self.ours, bucket) as seen:
                # A commit now and then, here and there; then one in each at once.
                sparse = commits(seen, databases, 40, max(0.1, 2.5 / count))
                # Longer ago than sync-interval, or it would wait for that.
                time.sleep(2)
                burst = commits(seen, databases, count, 0)
            memory_after = running.status("VmRSS")
        self.server.drop(bucket)
        return {"count": count, **rest, "memory-busy": memory_after, "started": started, "late": percentiles(sparse),
                "ticks-missed": sum(int(wait / TICK) for wait in sparse), "burst": percentiles(burst)}

    def of_peer(self, count):
        """Litestream at rest beside so many databases; none where it gives up. It knows no prefixes: a bucket for each."""
        buckets = self.server.many_buckets(count)
        paths = [path for path, _ in self.many_small(count)]
        config = self.configured(list(zip(paths, map(self.server.url, buckets))), "peer.yml")
        begin = time.monotonic()
        try:
            with rig.Running([self.peer.binary, "replicate", "-config", config], self.top, "peer") as running:
                rig.until("all databases of Litestream are stored", lambda: running.alive() or self.server.least_messages() >= 2, step=0.5)
                return {"started": time.monotonic() - begin, **at_rest(running)}
        except SystemExit as failure:
            print(f"  {count} databases: {failure}", file=sys.stderr, flush=True)
            return None
        finally:
            self.server.drop(*buckets)

    def neighbours(self):
        """How late thirty databases are stored while one more is behind a slow link, or has a huge snapshot.

        So many that none has two commits within sync-interval, for which the second would wait.
        """
        bucket = self.server.bucket()
        databases, slow = self.many_small(30), rig.Proxy(self.server.port, 0.5, 1e6)
        near = [(path, self.server.url(bucket) + "/" + prefix) for path, prefix in databases]
        result = {}
        for name, size, port in (("alone", 0, None), ("slow-link", 64, slow.port), ("huge-snapshot", 64, None)):
            other = os.path.join(self.top, "other.db")
            rig.forget(other)
            if size:
                rig.application(other, "-fill", size, "-double", 5 if port is None else 0)
            more = [(other, self.server.url(bucket, port) + "/" + name)] if size else []
            config = self.configured(near + more)
            with self.replicate(config) as running, watch.Watch(self.server, self.ours, bucket) as seen:
                time.sleep(1.5)
                result[name] = percentiles(commits(seen, databases, 120, 0.05))
                running.alive()
                if size and any(prefix == name for prefix in seen.snapshots):
                    print(f"  {name}: its snapshot ended too soon", file=sys.stderr)
                running.process.kill()
            rig.forget(other)
        self.server.drop(bucket)
        return result

    def huge(self):
        """10 GB, of which 256 MB are text and the rest a hole, with a writer beside."""
        path, bucket = self.folder("huge.db"), self.server.bucket()
        size, output = 10 * 10**9, os.path.join(self.top, "db", "restored.db")
        if shutil.disk_usage(self.top).free < 2.5 * size:
            sys.exit(f"bench: huge: {self.top} needs {2.5 * size:.0f} bytes; BENCH_TMP names another place")
        rig.application(path, "-fill", 256)
        enlarge(path, size)
        largest = Largest(path + "-wal")
        words = [sys.executable, rig.APPLICATION, path, "-seconds", "3600", "-rate", "200"]
        begin = time.monotonic()
        with largest, rig.Running(self.ours.replicate(path, self.server.url(bucket)), self.top, "ours") as running:
            load = subprocess.Popen(words, stdout=subprocess.PIPE)
            peak = rig.Peak(running.pid)
            rig.until("the snapshot", lambda: running.alive() or running.says("snapshot stored"), 1200, 0.1)
            seconds = time.monotonic() - begin
            time.sleep(5)
            load.kill()
            load.wait()
            time.sleep(3)
        stored = self.server.state(bucket).bytes
        back, memory, _, _ = rig.timed(self.ours.restore(self.server.url(bucket), output))
        rig.same_rows(path, output)
        rig.forget(path, output)
        self.server.drop(bucket)
        return {"bytes": size, "snapshot-time": seconds, "memory": peak.end(), "wal": largest.bytes, "stored": stored,
                "restore-time": back, "restore-memory": memory}

    def history(self):
        """100,000 segments, in a directory and in a bucket."""
        bucket, folder = self.server.bucket(), os.path.join(self.top, "history")
        result = {"segments": HISTORY}
        for name, url in (("directory", "file://" + folder), ("bucket", self.server.url(bucket))):
            past = history.History(self.folder("past.db"), HISTORY)
            # A second snapshot 15 minutes ago: with 5 minutes of retention what is before it may go.
            objects = past.objects(HISTORY - 900)
            if name == "bucket":
                history.into_bucket(self.server, bucket, objects)
            else:
                history.into_directory(folder, objects)
            result[name] = self.on_history(past.database, url)
            past.close()
        rig.forget(folder)
        self.server.drop(bucket)
        return result

    def compact(self):
        """A pass of compact over a bucket of 1,000 prefixes with 100 segments each, and one that finds nothing to do."""
        bucket, prefixes = self.server.bucket(), 1000
        past = history.History(self.folder("past.db"), 100)
        objects = list(past.objects(50))
        past.close()
        history.into_bucket(self.server, bucket, ((f"p{number:03d}/{name}", content) for number in range(prefixes) for name, content in objects))
        result = {"prefixes": prefixes, "objects": prefixes * len(objects)}
        for name in ("first", "second"):
            begin = self.server.state(bucket).bytes
            seconds, memory, _, _ = rig.timed([self.ours.binary, "compact", "-once", self.server.url(bucket)])
            result[name] = {"seconds": seconds, "memory": memory, "stored-before": begin, "stored-after": self.server.state(bucket).bytes}
        seconds, memory, _, _ = rig.timed([self.ours.binary, "list", "-json", self.server.url(bucket)])
        result["list"] = {"seconds": seconds, "memory": memory}
        self.server.drop(bucket)
        return result

    def on_history(self, database, url):
        output = database + ".out"
        config = self.configured([(database, url)], snapshot={"retention": "5m"})
        oldest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
        work = {
            "plan": self.ours.plan(url, output),
            "restore": self.ours.restore(url, output),
            # From the first snapshot, over nearly all segments.
            "restore-long": [self.ours.binary, "restore", "-timestamp", oldest, "-o", output, url],
            "status": [self.ours.binary, "status", database, url],
            "retention": [self.ours.binary, "-config", config, "replicate", "-once", "-enforce-retention"],
            "plan-after": self.ours.plan(url, output),
        }
        result = {}
        for name, words in work.items():
            seconds, memory, _, _ = rig.timed(words)
            result[name] = {"seconds": seconds, "memory": memory}
            if name == "restore":
                rig.same_rows(database, output)
            rig.forget(output)
        return result

    def latency(self):
        """Commit to visible at 0.1 to 1,000 commits a second. At 0.1 there are few commits to count."""
        return [{"rate": rate, **self.at_rate(rate, seconds)} for rate, seconds in ((0.1, 120), (1, 60), (10, 60), (100, 40), (1000, 40))]

    def at_rate(self, rate, seconds, **how):
        database, bucket, log = self.small(), self.server.bucket(), os.path.join(self.top, "frames")
        with watch.Watch(self.server, self.ours, bucket) as seen, self.following(self.ours, database, bucket, **how):
            time.sleep(2)
            rig.application(database, "-seconds", seconds, "-rate", rate, "-log", log)
            result = percentiles(seen.waits(log))
        self.server.drop(bucket)
        return result

    def application(self):
        """An application alone, beside us, and beside Litestream: as fast as it goes, and 200 commits a second."""
        found = {name: {"free": [], "paced": []} for name in ("alone", "ours", "peer")}
        for _ in range(3):
            for name, tool in (("alone", None), ("ours", self.ours), ("peer", self.peer)):
                bucket, database = self.server.bucket(), self.small()
                running = self.following(tool, database, bucket) if tool else None
                time.sleep(2)
                found[name]["free"].append(rig.application(database, "-seconds", 5))
                found[name]["paced"].append(rig.application(database, "-seconds", 5, "-rate", 200))
                if running:
                    running.stop()
                self.server.drop(bucket)
        middle = lambda runs: {key: rig.spread([run[key] for run in runs])["median"] for key in runs[0]}
        return {name: {kind: middle(runs) for kind, runs in kinds.items()} for name, kinds in found.items()}

    def bytes(self):
        """What is sent, stored and written for a byte of WAL, and syncs a minute."""
        result = {}
        for rate, seconds in ((0, 20), (1, 30), (100, 20)):
            database, bucket, log = self.small(), self.server.bucket(), os.path.join(self.top, "frames")
            link = rig.Proxy(self.server.port)
            with self.following(self.ours, database, bucket, link.port) as running:
                time.sleep(2)
                sent, stored = link.sent, self.server.state(bucket).bytes
                with strace.Trace(running.pid, self.top) as calls:
                    if rate:
                        rig.application(database, "-seconds", seconds, "-rate", rate, "-log", log)
                        time.sleep(2)
                    else:
                        time.sleep(seconds)
                sent, stored = link.sent - sent, self.server.state(bucket).bytes - stored
            wal = rig.wal_bytes(log) if rate else 0
            part = lambda count: count / wal if wal else None
            result[f"{rate}/s"] = {
                "wal": wal, "sent": part(sent), "stored": part(stored), "sent-a-minute": sent * 60 / (calls.end - calls.begin),
                "written": part(calls.written(but=rig.files(database))), "syncs-a-minute": calls.syncs(),
            }
            self.server.drop(bucket)
        return result

    def budget(self):
        """A quarter of one core and 64 MB: 100 commits a second, and a restore."""
        result = {}
        with budget.Budget(0.25, 64 << 20) as small:
            database, bucket, log = self.small(), self.server.bucket(), os.path.join(self.top, "frames")
            with watch.Watch(self.server, self.ours, bucket) as seen:
                with self.following(self.ours, database, bucket, preexec_fn=small.enter) as running:
                    small.hold(running.pid)
                    cpu, begin = running.cpu(), time.monotonic()
                    rig.application(database, "-seconds", 40, "-rate", 100, "-log", log)
                    result["cpu"] = (running.cpu() - cpu) / (time.monotonic() - begin)
                    result["late"] = percentiles(seen.waits(log))
                    result["memory"] = running.status("VmHWM")
            output = database + ".out"
            result["restore-time"], result["restore-memory"], _, _ = rig.timed(
                self.ours.restore(self.server.url(bucket), output), preexec_fn=small.enter)
            rig.same_rows(database, output)
            result["how"] = small.how()
        return result

    def age(self):
        """What encryption costs."""
        return encryption.of(self, self.ours)


def at_rest(running):
    """Memory, descriptors, and the part of a core that it takes, once what follows the start is over."""
    time.sleep(8)
    cpu, begin = running.cpu(), time.monotonic()
    time.sleep(20)
    idle = (running.cpu() - cpu) / (time.monotonic() - begin)
    running.alive()
    return {"memory": running.status("VmRSS"), "idle-cpu": idle, "descriptors": running.descriptors()}


def commits(seen, databases, count, pause):
    """The waits of `count` commits, in turn to all databases, until each is seen. One waits for no other."""
    begun, waits = {}, []

    def take(block):
        while len(waits) < count and (block or not seen.events.empty()):
            when, prefix, _ = seen.events.get(timeout=60)
            if prefix in begun:
                waits.append(when - begun.pop(prefix))

    seen.forget()
    for number in range(count):
        path, prefix = databases[number % len(databases)]
        while prefix in begun:
            take(False)
            time.sleep(0.001)
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        connection.execute("INSERT INTO t (body) VALUES ('one more')")
        begun[prefix] = time.time()
        connection.close()
        time.sleep(pause)
        take(False)
    take(True)
    return waits


def enlarge(path, size):
    """Makes a database of `size` bytes of what is small: what follows is a hole that no table uses. SQLite writes behind it."""
    size -= size % 4096
    with open(path, "r+b") as file:
        file.truncate(size)
        file.seek(28)
        file.write((size // 4096).to_bytes(4, "big"))


class Largest(threading.Thread):
    """The greatest size that a file has while it is watched."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.bytes, self.over = path, 0, threading.Event()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(0.02):
            if os.path.exists(self.path):
                self.bytes = max(self.bytes, os.path.getsize(self.path))


GROUPS = ["databases", "neighbours", "huge", "history", "compact", "latency", "application", "bytes", "budget", "age"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("-only", help="groups, with commas: " + " ".join(GROUPS))
    parser.add_argument("-keep", action="store_true", help="writes what was found into results.json, the plots and README")
    o = parser.parse_args()
    ours, peer = rig.tools(o.binary)
    for group in o.only.split(",") if o.only else GROUPS:
        begin = time.monotonic()
        with rig.scratch() as top, rig.Server(top) as server:
            found = getattr(Scale(server, top, ours, peer), group)()
        print(f"{group}, {time.monotonic() - begin:.0f} s:\n{json.dumps(found, indent=1)}", flush=True)
        if o.keep:
            report.save("scale", {group: found})


if __name__ == "__main__":
    main()
