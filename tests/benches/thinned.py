"""What a day costs on the link where history is thinned out elsewhere. Standard library and nats-py only."""

import json
import os
import random
import sqlite3
import time

import rig

COMMITS_OF_A_DAY = 86_400 // 10


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
        self.server.drop(bucket)
        # Litestream sends the database once more each day: the row of what is stored says how many bytes that is.
        again = 0.65 * os.path.getsize(database) if tool.name == "peer" else 0
        return {"day-up": COMMITS_OF_A_DAY * up + again, "day-down": COMMITS_OF_A_DAY * down}

    def quiet(self, running, proxy, bucket):
        """Waits until the first copy is stored."""
        self.stored(running, bucket, 100)
        before, since = -1, time.monotonic()
        # Litestream sends the first copy once more for each of its levels.
        while time.monotonic() - since < 45:
            if proxy.sent - before > 20_000:
                before, since = proxy.sent, time.monotonic()
            time.sleep(0.2)
