"""What encryption to age recipients costs, beside the same in clear: both in one run, and in turn.

Times are taken in pairs, since others use the machine.
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
    """Bytes that are stored of a commit, with one in each segment and with many: the geometric mean of eight applications. In
    clear is what stands in the age files: another replica would cut its segments elsewhere."""
    running, found, top = applications.Running(bench.folder("applications")), {}, os.path.join(bench.top, "objects")
    stores = [os.path.join(top, str(number)) for number in range(len(running.paths))]
    dbs = [{"path": path, "replica": replica("age", f"file://{store}", compaction=False)} for path, store in zip(running.paths, stores)]
    with rig.Running([ours.binary, "replicate", "-config", configuration(bench, dbs, "sizes.yml")], bench.top, "sizes") as process:
        rig.until("a snapshot of each database", lambda: all(objects(store, "snapshots") for store in stores))
        process.alive()
        for name, rate, seconds in (("one", 0.7, 22), ("many", 100, 6)):
            time.sleep(4)
            before = [objects(store, "wal") for store in stores]
            commits = running.commit_at(rate, seconds)
            time.sleep(4)
            after = [objects(store, "wal") for store in stores]
            new = [[now[key] for key in now.keys() - then.keys()] for now, then in zip(after, before)]
            mean = lambda side: applications.geometric_mean([sum(pair[side] for pair in pairs) / commits for pairs in new])
            pairs = [pair for of_one in new for pair in of_one]
            found[name] = {"clear": mean(0), "age": mean(1), "commits": len(new) * commits / len(pairs),
                           "more": sum(age - clear for clear, age in pairs) / len(new) / commits}
    running.close()
    return found


def objects(store, room):
    """The sizes of what stands in each object, and of the object, by its name."""
    found = {}
    for folder, _, names in os.walk(store):
        for name in names if os.path.basename(folder) == room else ():
            if name.endswith(".gz"):
                with open(os.path.join(folder, name), "rb") as file:
                    data = file.read()
                found[name] = (plain_size(data), len(data))
    return found


def plain_size(data):
    """Of the plain text of an age file: a header, a nonce, and a tag for each chunk of 64 KiB."""
    nonce = data.index(b"\n", data.index(b"\n--- ") + 1) + 1
    payload = len(data) - nonce - 16
    return payload - 16 * -(-payload // (65536 + 16))


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
