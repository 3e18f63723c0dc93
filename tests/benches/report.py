"""What the benches have measured: kept in results.json, and shown as tables of Markdown."""

import json
import os

import rig

RESULTS = os.path.join(rig.HERE, "results.json")
README = os.path.join(rig.ROOT, "README.md")
BEGIN, END = "<!-- begin of what make bench writes -->", "<!-- end of what make bench writes -->"


def load(path=RESULTS):
    if not os.path.exists(path):
        return {"peer": {}, "scale": {}}
    with open(path) as file:
        return json.load(file)


def save(part, found, path=RESULTS):
    """Puts what was found in place of what is known of the same; all else stays."""
    kept = load(path)
    kept["machine"] = rig.machine()
    kept.setdefault(part, {}).update(found)
    with open(path, "w") as file:
        json.dump(kept, file, indent=1, sort_keys=True)
        file.write("\n")


def digits(value):
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def figure(row, side):
    if row[side] is None:
        return "" if row.get("alone") else "fails"
    spread, scale = row[side], row["scale"]
    alone = digits(spread["median"] * scale)
    same = spread["n"] == 1 or spread["min"] == spread["max"]
    return alone if same else f"{alone} ({digits(spread['min'] * scale)}-{digits(spread['max'] * scale)})"


def table(rows):
    lines = [f"| what | Litestream {rig.PEER} | ours | ratio | goal | reached |", "|---|---|---|---|---|---|"]
    for row in rows:
        unit = f", {row['unit']}" if row["unit"] else ""
        ratio = "" if row["ratio"] is None else digits(row["ratio"])
        mark = {True: "yes", False: "**no**", None: ""}[row["reached"]]
        if row["reached"] is False and row["why"]:
            mark += f": {row['why']}"
        lines.append(f"| {row['title']}{unit} | {figure(row, 'peer')} | {figure(row, 'ours')} | {ratio} | {row['goal']} | {mark} |")
    return "\n".join(lines)


def grid(names, rows):
    """A table of Markdown; numbers in three digits."""
    show = lambda value: value if isinstance(value, str) else "" if value is None else digits(value)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(map(show, row)) + " |" for row in rows])


def readme(text):
    with open(README) as file:
        whole = file.read()
    before, rest = whole.split(BEGIN)
    after = rest.split(END)[1]
    with open(README, "w") as file:
        file.write(before + BEGIN + "\n" + text.strip() + "\n" + END + after)
