"""What is stored for 30 days of one commit a second with the same moments restorable: every commit of a day, one state an hour
for a week, one a day for the rest. A month cannot pass: its objects are measured one of a kind, and added up. Standard library
and nats-py only."""

import os
import re
import sqlite3
import sys
import time
from collections import namedtuple

import applications
import rig
import thinned

HOUR, DAY = 3600, 86_400
# After 30 days of one commit a second: commits in the part of which every one is kept, hours of which the last one is, days.
COMMITS, HOURS, DAYS = DAY, 6 * 24, 23
# `compact` makes a snapshot where a restore reads more than half of the one before, and never less than this (litestream.yml(5)).
LEAST_BEHIND = 16 << 10
# Our commits of a day are merged into fewer objects than this.
MERGED = 100

# Of one application: bytes of an object with one commit, with those of an hour, with those of a day; of a first copy before all
# commits, and after `commits` of them; and what the bucket has besides for each object.
Parts = namedtuple("Parts", "commit hour day first last commits around")


def snapshot_after(parts, commits):
    """A first copy after so many commits: it grows by the same for each."""
    return parts.first + max(0, parts.last - parts.first) * commits / parts.commits


def of_ours(parts):
    """Bytes after 30 days, and objects older than a day. A snapshot is where `compact` wants one."""
    edges = [(DAY, parts.day)] * DAYS + [(HOUR, parts.hour)] * HOURS + [(HOUR, HOUR * parts.commit)] * (COMMITS // HOUR)
    at, behind, newest = 0, 0, parts.first
    snapshots = [(0, newest)]
    for commits, size in edges:
        at, behind = at + commits, behind + size
        if behind > max(newest / 2, LEAST_BEHIND):
            behind, newest = 0, snapshot_after(parts, at)
            snapshots.append((at, newest))
    objects = DAYS + HOURS + MERGED + len(snapshots)
    old = DAYS + HOURS + sum(at <= DAYS * DAY + HOURS * HOUR for at, _ in snapshots)
    return sum(size for _, size in edges) + sum(size for _, size in snapshots) + objects * parts.around, old


def of_peer(parts):
    """Bytes after 30 days of Litestream as it can be configured, with the fewest bytes: l0-retention 24h, one level of 1h, and
    snapshot.retention 720h, which keeps the files of all 720 hours; a snapshot at the start alone. Not counted: a delete
    marker for each commit that is older than a day."""
    return COMMITS * (parts.commit + parts.around) + 720 * (parts.hour + parts.around) + parts.first + parts.around


def least_of_peer(parts):
    """Bytes of the fewest of its files that hold these moments, whether or not it can be configured to keep only them: a day is its
    changes or a snapshot."""
    days = sum(min(parts.day, snapshot_after(parts, number * DAY)) for number in range(1, DAYS + 1))
    return COMMITS * (parts.commit + parts.around) + HOURS * parts.hour + days + parts.first + (HOURS + DAYS + 1) * parts.around


class Month(thinned.Thinned):
    """A group of `peer.py`."""

    # The parts by tool and application, which are kept and shown as well.
    parts = {}

    def month(self, tool):
        """The geometric mean of what the parts of each application add up to. A part that cannot be measured ends the bench."""
        each = (self.parts_of_peer if tool.name == "peer" else self.parts_of_ours)(tool)
        self.parts[tool.name] = {app: parts._asdict() for app, parts in zip(applications.APPLICATIONS, each)}
        mean = lambda work: applications.geometric_mean([work(parts) for parts in each])
        if tool.name == "peer":
            shown = lambda parts: f"{of_peer(parts):,.0f}, at least {least_of_peer(parts):,.0f}"
            found = {"month": mean(of_peer), "month-least": mean(least_of_peer), "month-objects": 720 - 24 + 1}
        else:
            shown = lambda parts: "{:,.0f}, {} objects older than a day".format(*of_ours(parts))
            bytes_of = mean(lambda parts: of_ours(parts)[0])
            found = {"month": bytes_of, "month-least": bytes_of, "month-objects": max(of_ours(parts)[1] for parts in each)}
        for app, parts in zip(applications.APPLICATIONS, each):
            words = ", ".join(f"{name} {value:,.0f}" for name, value in parts._asdict().items())
            print(f"  month {tool.name}: {app}: {words}: {shown(parts)}", file=sys.stderr, flush=True)
        return found

    def parts_of_peer(self, tool):
        running, buckets = self.begin()
        first = self.first_copies(tool, running, r"ltx/")
        dbs = [{"path": path, "replica": {"url": self.server.url(bucket)}} for path, bucket in zip(running.paths, buckets)]
        before = running.number
        # No file of a level is made meanwhile.
        commit, around = self.commits_alone(tool, {"levels": [{"interval": "24h"}], "dbs": dbs}, running, buckets, r"ltx/0/")
        hour, day = self.files_of_peer(tool, dbs, running, buckets, (HOUR, DAY))
        return self.end(tool, running, buckets, before, r"ltx/", commit, hour, day, first, around)

    def parts_of_ours(self, tool):
        running, buckets = self.begin()
        first = self.first_copies(tool, running, r"generations/\w+/snapshots/")
        urls = [self.server.url(bucket) for bucket in buckets]
        dbs = [{"path": path, "replica": {"url": url, "compaction": False}} for path, url in zip(running.paths, urls)]
        before = running.number
        commit, around = self.commits_alone(tool, {"dbs": dbs}, running, buckets, r"generations/\w+/wal/")
        hour = self.rollups_of_ours(running, HOUR, "all=1h,hourly=7d")
        day = self.rollups_of_ours(running, DAY, "all=1h,daily=30d")
        return self.end(tool, running, buckets, before, r"generations/\w+/snapshots/", commit, hour, day, first, around)

    def begin(self):
        running = applications.Running(self.folder("applications"))
        return running, [self.server.bucket() for _ in running.paths]

    def end(self, tool, running, buckets, before, pattern, commit, hour, day, first, around):
        last, commits = self.first_copies(tool, running, pattern), running.number - before
        running.close()
        self.server.drop(*buckets)
        return [Parts(*each, commits, more) for *each, more in zip(commit, hour, day, first, last, around)]

    def commits_alone(self, tool, config, running, buckets, pattern):
        """Bytes of a commit that is an object of its own, and what a bucket has besides for each object."""
        config = thinned.write(os.path.join(self.top, "commits.yml"), config)
        with rig.Running([tool.binary, "replicate", "-config", config], self.top, tool.name) as process:
            for bucket in buckets:
                # The record of the writer, and an object in two messages.
                self.stored(process, bucket, 3 if tool.name == "ours" else 2)
            time.sleep(4)
            before, bytes_before = [self.sizes(bucket, pattern) for bucket in buckets], [self.server.state(bucket).bytes for bucket in buckets]
            commits = running.commit_at(0.7, 40)
            time.sleep(4)
            after = [self.sizes(bucket, pattern) for bucket in buckets]
            bytes_after = [self.server.state(bucket).bytes for bucket in buckets]
        new = [len(now) - len(then) for now, then in zip(after, before)]
        if min(new) < 0.95 * commits:
            sys.exit(f"bench: month: {commits} commits made {new} objects: not each of them can be restored")
        sizes = [sum(now) - sum(then) for now, then in zip(after, before)]
        all_bytes = [now - then for now, then in zip(bytes_after, bytes_before)]
        return ([size / commits for size in sizes],
                [(everything - size) / count for everything, size, count in zip(all_bytes, sizes, new)])

    def files_of_peer(self, tool, dbs, running, buckets, counts):
        """For each count, a file of level 1 with the changes of so many commits, as a level of an hour or a day has. It holds
        the last version of each page: how many of them are one transaction does not matter."""
        interval, found = 120, []
        config = thinned.write(os.path.join(self.top, "level.yml"), {"levels": [{"interval": f"{interval}s"}], "dbs": dbs})
        files = lambda: [set(self.names_and_sizes(bucket, r"ltx/1/")) for bucket in buckets]
        with rig.Running([tool.binary, "replicate", "-config", config], self.top, tool.name) as process:
            for commits in counts:
                # The file of what was before is stored by now.
                thinned.wait_for_interval(interval)
                time.sleep(20)
                before, begin = files(), time.monotonic()
                commit_in_batches(running, commits)
                if time.monotonic() - begin > interval - 40:
                    sys.exit(f"bench: month: {commits} commits took longer than an interval of Litestream's level")
                thinned.wait_for_interval(interval)
                rig.until(f"a file of level 1 with {commits} commits each",
                          lambda: process.alive() or all(now - then for now, then in zip(files(), before)), 60, 1)
                time.sleep(5)
                new = [[size for _, size in now - then] for now, then in zip(files(), before)]
                if any(len(sizes) != 1 for sizes in new):
                    sys.exit(f"bench: month: expected one file of level 1 with {commits} commits each, found {new}")
                found.append([sizes[0] for sizes in new])
        return found

    def names_and_sizes(self, bucket, pattern):
        async def read(_, js):
            entries = await (await js.object_store(bucket)).list()
            return [(entry.name, entry.size) for entry in entries if re.match(pattern, entry.name)]

        return self.server.ask(read)

    def rollups_of_ours(self, running, commits, keep):
        """A rollup of so many commits, which the wall clock of the program makes those of one hour or one day. Of a day, 24 are one
        transaction: it is composed of 3,600, as that of an hour is."""
        buckets = [self.server.bucket() for _ in running.paths]
        urls = [self.server.url(bucket) for bucket in buckets]
        shift, span = thinned.clock_offset(self.top), HOUR if commits == HOUR else DAY
        # The program with shared libraries: the clock of the static one cannot be set.
        binary = os.path.join(rig.ROOT, "target", "release", "litestream")
        dbs = [{"path": path, "replica": {"url": url, "compaction": False}} for path, url in zip(running.paths, urls)]
        config = thinned.write(os.path.join(self.top, "rollup.yml"), {"dbs": dbs})
        replicate, start = [binary, "replicate", "-config", config], span - time.time() % span
        with rig.Running(replicate, self.top, "ours", env=shift(start - 600)) as process:
            for bucket in buckets:
                self.stored(process, bucket)
        with rig.Running(replicate, self.top, "ours", env=shift(start + 60)):
            time.sleep(2)
            for _ in range(60):
                commit_in_batches(running, commits // 60, commits // HOUR)
                time.sleep(1)
            time.sleep(4)
        with rig.Running(replicate, self.top, "ours", env=shift(start + 5 * span)):
            time.sleep(2)
            running.commit()
            time.sleep(2)
        for url in urls:
            rig.timed([binary, "compact", "-once", "-keep", keep, url], env=shift(start + 5 * span + 300))
        rollups = r"generations/\w+/wal/\S+-19700101T000000.000Z-"
        found = [self.sizes(bucket, rollups) for bucket in buckets]
        self.server.drop(*buckets)
        if not all(found):
            sys.exit(f"bench: month: expected a rollup of {commits} commits each, found {found}")
        return [max(sizes) for sizes in found]

    def first_copies(self, tool, running, pattern):
        """Bytes of the first copy of each database as it is now. A tool finds nothing of its own beside a database that is a copy."""
        found, bucket = [], None
        for path in running.paths:
            copy, bucket = path + ".copy", self.server.bucket()
            copied(path, copy)
            rig.timed(tool.once(copy, self.server.url(bucket)))
            # All there is of ours; Litestream's levels have it several times.
            found.append(max(self.sizes(bucket, pattern)))
            self.server.drop(bucket)
            rig.forget(copy, os.path.join(os.path.dirname(copy), f".{os.path.basename(copy)}-litestream"))
        return found


def copied(path, copy):
    """The database without what other connections do to it, and without Litestream's tables."""
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    source.backup(target)
    for table in ("_litestream_seq", "_litestream_lock"):
        target.execute(f"DROP TABLE IF EXISTS {table}")
    target.commit()
    for connection in (source, target):
        connection.close()


def commit_in_batches(running, commits, batch=HOUR):
    """What so many commits change in each database, in fewer transactions."""
    for app, connection, draw in running.open:
        for begin in range(0, commits, batch):
            connection.execute("BEGIN")
            for number in range(begin, min(begin + batch, commits)):
                statements = app.commit(draw, running.number + number)
                for statement in statements if isinstance(statements, list) else [statements]:
                    connection.execute(*statement)
            connection.execute("COMMIT")
    running.number += commits
