"""What encryption to age recipients costs, beside the same in clear: both in one run, and in turn.

One database with two replicas gives the sizes, so that both store the very same commits.
"""

import json
import os
import statistics
import sys
import time

import applications
import rig

# Rounds of what others on the machine disturb.
PAIRS = 5
# Of the official test vectors.
RECIPIENT = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef"
IDENTITY = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0"
SIDES = ("clear", "age")


def of(bench, ours):
    keys = os.path.join(bench.top, "key.txt")
    with open(os.open(keys, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(IDENTITY + "\n")
    return {**sizes(bench, ours), **copies(bench, ours, keys), **rest(bench, ours)}


def replica(side, url, **more):
    encrypted = {"age": {"recipients": [RECIPIENT]}} if side == "age" else {}
    return {"url": url, **encrypted, **more}


def configuration(bench, dbs, name):
    path = os.path.join(bench.top, name)
    with open(path, "w") as file:
        json.dump({"dbs": dbs}, file)
    return path


def sizes(bench, ours):
    """Bytes that are stored of a commit, with one in each segment and with a hundred: the geometric mean of eight applications."""
    running, found = applications.Running(bench.folder("applications")), {}
    store = lambda side: os.path.join(bench.top, "objects-" + side)
    replicas = lambda number: [
        replica(side, f"file://{store(side)}/{number}", name=side, compaction=False) for side in SIDES]
    dbs = [{"path": path, "replicas": replicas(number)} for number, path in enumerate(running.paths)]
    config = configuration(bench, dbs, "sizes.yml")
    count = len(running.paths)
    with rig.Running([ours.binary, "replicate", "-config", config], bench.top, "sizes") as process:
        both = lambda: all(segments(store(side), number)[0] for side in SIDES for number in range(count))
        rig.until("a snapshot of each database", both)
        process.alive()
        for name, rate, seconds in (("one", 0.7, 22), ("hundred", 100, 6)):
            time.sleep(4)
            before = [[segments(store(side), number)[1] for number in range(count)] for side in SIDES]
            commits = running.commit_at(rate, seconds)
            time.sleep(4)
            stored = {}
            for side, then in zip(SIDES, before):
                now = [segments(store(side), number)[1] for number in range(count)]
                stored[side] = [sum(new[key] for key in new.keys() - old.keys()) / commits for new, old in zip(now, then)]
            found[name] = {side: applications.geometric_mean(stored[side]) for side in SIDES}
            found[name]["more"] = statistics.mean(age - clear for age, clear in zip(stored["age"], stored["clear"]))
    running.close()
    return found


def segments(store, number):
    """How many snapshots there are, and the sizes of the segments by their names."""
    snapshots, sizes = 0, {}
    for folder, _, names in os.walk(os.path.join(store, str(number))):
        snapshots += len(names) if folder.endswith("/snapshots") else 0
        if folder.endswith("/wal"):
            sizes.update({name: os.path.getsize(os.path.join(folder, name)) for name in names if name.endswith(".gz")})
    return snapshots, sizes


def copies(bench, ours, keys):
    """A snapshot and its restore: in pairs, each side first as often as the other."""
    database = bench.template("mixed.db", "-fill", 256)
    took = {side: {"snapshot": [], "restore": [], "snapshot-cpu": [], "restore-cpu": []} for side in SIDES}
    for number in range(PAIRS):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            bucket = bench.server.bucket()
            url = bench.server.url(bucket)
            config = configuration(bench, [{"path": database, "replica": replica(side, url)}], "copies.yml")
            seconds, _, cpu, _ = rig.timed([ours.binary, "replicate", "-once", "-config", config])
            took[side]["snapshot"].append(seconds)
            took[side]["snapshot-cpu"].append(cpu)
            words = ["-identity", keys] if side == "age" else []
            output = database + ".out"
            rig.forget(output)
            seconds, _, cpu, _ = rig.timed([ours.binary, "restore", *words, "-o", output, url])
            took[side]["restore"].append(seconds)
            took[side]["restore-cpu"].append(cpu)
            rig.same_rows(database, output)
            bench.server.drop(bucket)
            # What is known beside the database is of the bucket that is gone.
            rig.forget(os.path.join(os.path.dirname(database), ".mixed.db-litestream"))
            shown = "  ".join(f"{key} {values[-1]:.3g}" for key, values in took[side].items())
            print(f"  age {number + 1} {side}: {shown}", file=sys.stderr, flush=True)
    ratio = lambda key: statistics.median(age / clear for age, clear in zip(took["age"][key], took["clear"][key]))
    both = lambda key: {side: statistics.median(took[side][key]) for side in SIDES}
    return {key: {**both(key), "ratio": ratio(key)} for key in took["age"]}


def rest(bench, ours):
    """A database to which nothing is written: CPU, as a part of a core."""
    found = {}
    for side in SIDES:
        bucket, database = bench.server.bucket(), bench.small()
        config = configuration(bench, [{"path": database, "replica": replica(side, bench.server.url(bucket))}], "rest.yml")
        with rig.Running([ours.binary, "replicate", "-config", config], bench.top, "rest") as running:
            bench.stored(running, bucket)
            time.sleep(8)
            cpu, begin = running.cpu(), time.monotonic()
            time.sleep(40)
            found[side] = (running.cpu() - cpu) / (time.monotonic() - begin)
        bench.server.drop(bucket)
    return {"rest": found}
