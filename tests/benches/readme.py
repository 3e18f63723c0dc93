#!/usr/bin/env python3
"""Draws what was measured last and writes README's tables of it, so that every figure there is a measured one."""

import os

import month
import peer
import report
import rig
import plot

MB = 1e6


def picture(name):
    return os.path.join(rig.ROOT, "man", name)


def ms(found, *keys):
    return [f"{report.digits(found[key] * 1000)}" for key in keys]


def of_peer(rows):
    bars = [(row["title"], row["ratio"], f"{report.figure(row, 'ours')} to {report.figure(row, 'peer')} {row['unit']}")
            for row in rows if row["ratio"]]
    plot.ratios(picture("bench.svg"), f"Ours divided by Litestream {rig.PEER} (1: the same)", bars)
    return report.table(rows) + "\n\n![each figure divided by Litestream's](man/bench.svg)"


def of_peer_at_rest(row):
    if "peer" not in row:
        return None, None
    return (row["peer"]["memory"] / MB, row["peer"]["idle-cpu"] * 100) if row["peer"] else ("fails", "fails")


def of_month(found):
    """What the parts of a month add up to for each application."""
    apps = [(app, month.Parts(**found["peer"][app]), month.Parts(**found["ours"][app])) for app in found["ours"]]
    rows = []
    for app, peer_parts, parts in apps:
        stored, old = month.of_ours(parts)
        both = lambda key, scale=1: [getattr(each, key) / scale for each in (peer_parts, parts)]
        totals = [month.of_peer(peer_parts) / MB, month.least_of_peer(peer_parts) / MB, stored / MB]
        rows.append([app, *both("commit"), *both("hour", 1e3), *both("day", 1e3), *both("last", 1e3), *totals, totals[2] / totals[0], old])
    names = ["application", "a commit, bytes: Litestream", "ours", "an hour, kB: Litestream", "ours", "a day, kB: Litestream", "ours",
             "a first copy after a day, kB: Litestream", "ours", "30 days, MB: Litestream", "its files that are needed", "ours", "ratio", "objects older than a day"]
    return "**30 days of one commit a second**: the parts that were measured, and what they add up to.\n\n" + report.grid(names, rows)


def of_databases(found):
    lines = [
        ("memory, MB", [(row["count"], row["memory"] / MB) for row in found]),
        ("descriptors", [(row["count"], row["descriptors"]) for row in found]),
        ("idle CPU, %", [(row["count"], row["idle-cpu"] * 100) for row in found]),
        ("visible p50, ms", [(row["count"], row["late"]["p50"] * 1000) for row in found]),
    ]
    plot.curves(picture("bench-databases.svg"), "Databases in one process", "databases", "", lines, floor=0.001)
    first = found[0]["memory"]
    rows = [[f"{row['count']:,}", row["memory"] / MB, (row["memory"] - first) / 1e3 / (row["count"] - 1) if row["count"] > 1 else None,
             row["descriptors"], row["idle-cpu"] * 100, *of_peer_at_rest(row), *ms(row["late"], "p50", "max"), row["ticks-missed"], row["burst"]["max"]] for row in found]
    names = ["databases", "memory, MB", "kB per additional database", "file descriptors", "idle CPU, %", "Litestream: memory, MB", "idle CPU, %", "visible p50, ms", "longest, ms",
             "ticks missed", "one commit in each at once: the last one visible, s"]
    return "**Many databases in one process.**\n\n" + report.grid(names, rows) + "\n\n![databases in one process](man/bench-databases.svg)"


def of_neighbours(found):
    words = {"alone": "none", "slow-link": "one on a link of 1 MB/s with a delay of 1 s",
             "huge-snapshot": "one of 2 GB that takes its first snapshot"}
    rows = [[words[name], *ms(row, "p50", "p99", "max")] for name, row in found.items()]
    return "**Thirty databases and one more** (commit to visible, ms).\n\n" + report.grid(["the other database", "p50", "p99", "longest"], rows)


def of_huge(found):
    return (f"**A database of {found['bytes'] / 1e9:.0f} GB** (256 MB of text, the rest a hole) with 200 commits a second: snapshot "
            f"{report.digits(found['snapshot-time'])} s in {report.digits(found['memory'] / MB)} MB, with a WAL of at most "
            f"{report.digits(found['wal'] / MB)} MB; restore {report.digits(found['restore-time'])} s in {report.digits(found['restore-memory'] / MB)} MB.")


def of_history(found):
    words = {"plan": "plan of the latest state", "restore": "its restore, 900 segments", "restore-long": "restore over 96,000 segments",
             "status": "status", "retention": "retention that deletes 99,000", "plan-after": "plan after that"}
    cells = lambda work: [cell for place in ("directory", "bucket")
                          for cell in (found[place][work]["seconds"], found[place][work]["memory"] / MB)]
    rows = [[words[work], *cells(work)] for work in words]
    return f"**A history of {found['segments']:,} unmerged segments.**\n\n" + report.grid(
        ["work", "directory, s", "MB", "bucket, s", "MB"], rows)


def of_compact(found):
    rows = [[name, found[key]["seconds"], found[key]["memory"] / MB]
            for key, name in (("first", "compact, which merges them"), ("second", "compact, nothing to do"), ("list", "list"))]
    return (f"**A bucket of {found['prefixes']:,} databases** with {found['objects']:,} unmerged objects.\n\n"
            + report.grid(["work", "s", "MB"], rows))


def of_latency(found):
    lines = [(name, [(row["rate"], row[key] * 1000) for row in found]) for key, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))]
    plot.curves(picture("bench-latency.svg"), "Commit to visible in the bucket", "commits a second", "ms", lines)
    rows = [[f"{row['rate']:g}", f"{row['n']:,}", *ms(row, "p50", "p99", "p999", "max")] for row in found]
    return ("**Commit to visible in the bucket**, with defaults (at most one segment a second), ms. With few "
            "commits, p99 is the maximum.\n\n" + report.grid(["commits a second", "commits", "p50", "p99", "p99.9", "longest"], rows)
            + "\n\n![commit to visible](man/bench-latency.svg)")


def of_application(found):
    words = {"alone": "nothing", "ours": "ours", "peer": f"Litestream {rig.PEER}"}
    rows = [[words[name], row["free"]["rate"], row["free"]["p99_ms"], row["free"]["max_ms"], row["paced"]["p99_ms"], row["paced"]["max_ms"]]
            for name, row in found.items()]
    names = ["with", "commits/s, tight loop", "p99, ms", "longest, ms", "at 200/s: p99, ms", "longest, ms"]
    return "**The application's own commits.**\n\n" + report.grid(names, rows)


def of_bytes(found):
    names = ["commits a second", "bytes sent per byte of WAL", "stored per byte of WAL", "written locally per byte of WAL", "bytes sent per minute", "fsyncs per minute"]
    rows = [[name, row["sent"], row["stored"], row["written"], row["sent-a-minute"], row["syncs-a-minute"]] for name, row in found.items()]
    return ("**Bytes and syncs** with rows that compress well. Checkpoints write and sync the database as SQLite's own would; they are "
            "not counted.\n\n" + report.grid(names, rows))


def of_budget(found):
    late = found["late"]
    return (f"**A quarter of one core and 64 MB** ({found['how']}), 100 commits a second: visible after {ms(late, 'p50')[0]} ms (p50) and "
            f"{ms(late, 'max')[0]} ms (longest of {late['n']:,}), {report.digits(found['cpu'] * 100)} % of a core, "
            f"{report.digits(found['memory'] / MB)} MB at most; restore in {report.digits(found['restore-memory'] / MB)} MB, equal.")


def of_age(found):
    sides = lambda pair: [pair[side] for side in ("clear", "age")]
    pairs = [("bytes stored per commit, one commit per segment", sides(found["one"]), found["one"]["more"]),
             (f"the same: {found['many']['commits']:.0f} commits per segment", sides(found["many"]), found["many"]["more"]),
             ("CPU at rest, %", [share * 100 for share in sides(found["rest"])], None)]
    rows = [[title, clear, age, age / clear if clear else None, more] for title, (clear, age), more in pairs]
    for key, title in (("snapshot", "snapshot of 256 MB, s"), ("restore", "its restore, s"), ("snapshot-cpu", "CPU time of the snapshot, s"),
                       ("restore-cpu", "CPU time of the restore, s")):
        rows.append([title, found[key]["clear"], found[key]["age"], found[key]["ratio"], None])
    return ("**Encryption** to one age recipient, beside the same in clear. Times are medians, and their ratio is the median of those of "
            "alternating pairs.\n\n" + report.grid(["what", "clear", "encrypted", "ratio", "more, on average"], rows))


def of_store(found):
    names = ["connection", "put, MB/s", "get, MB/s", "put of 2 kB, ms", "get of it, ms"]
    ways = [f"{kind}, {way}" for kind in ("plain", "TLS") for way in ("loopback", "10 ms", "100 ms")]
    rows = [[f"{way}: {who}", *figures] for way in ways for who, figures in sorted(found[way].items(), reverse=True) if figures]
    return ("**The store alone**, one object of 50 MB or 2 kB at a time. Delays are whole round trips; nats-py takes minutes at "
            "100 ms.\n\n" + report.grid(names, rows))


SCALE = {"databases": of_databases, "neighbours": of_neighbours, "huge": of_huge, "history": of_history, "compact": of_compact,
         "latency": of_latency,
         "application": of_application, "bytes": of_bytes, "budget": of_budget, "age": of_age}


def main():
    found = report.load()
    parts = [of_peer(peer.shown(found["peer"]))] if found["peer"] else []
    parts += [of_month(found["month"])] if found.get("month") else []
    parts += [write(found["scale"][group]) for group, write in SCALE.items() if group in found["scale"]]
    parts += [of_store(found["store"])] if found.get("store") else []
    machine = found.get("machine", {})
    parts.append(f"Measured on {machine.get('date')}: {machine.get('cores')} cores of {machine.get('cpu')}, Linux "
                 f"{machine.get('kernel')}, nats-server on the same machine, which others used at the same time (load {machine.get('load', 0):.0f}).")
    report.readme("\n\n".join(parts))


if __name__ == "__main__":
    main()
