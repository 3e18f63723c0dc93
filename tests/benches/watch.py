"""Looks at a bucket from outside, and says when what a tool stores can be read by anyone."""

import asyncio
import base64
import bisect
import queue
import struct
import threading
import time

import nats
import nats.js.api

import rig

FRAME = 24 + 4096


class Watch(threading.Thread):
    """For each segment that reaches further than those before it: (Unix seconds, prefix, how far), in `events` and `seen`.

    A consumer is told of what the stream has stored, not of what is sent to it.
    """

    def __init__(self, server, tool, bucket):
        super().__init__(daemon=True)
        self.server, self.tool, self.bucket = server, tool, bucket
        self.events, self.seen, self.furthest, self.snapshots = queue.Queue(), [], {}, set()
        # One (index, salts) of our segments, by which commits are found in them.
        self.anchor = None
        self.ready, self.over = threading.Event(), threading.Event()

    def __enter__(self):
        self.start()
        rig.until("the watch", self.ready.is_set)
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        asyncio.run(self.work())

    async def work(self):
        nc = await nats.connect(f"nats://127.0.0.1:{self.server.port}")
        js = nc.jetstream(timeout=60)
        policy = nats.js.api.DeliverPolicy.NEW
        await js.subscribe(f"$O.{self.bucket}.>", cb=self.on, ordered_consumer=True, deliver_policy=policy)
        self.ready.set()
        while not self.over.is_set():
            await asyncio.sleep(0.05)
        await nc.close()

    async def on(self, message):
        now = time.time()
        kind, name = message.subject.split(".")[2:4]
        if kind == "C":
            return self.chunk(message.data)
        name = base64.urlsafe_b64decode(name).decode()
        found = self.tool.reach(name)
        if "/snapshots/" in name:
            self.snapshots.add(name.split("generations/")[0].rstrip("/"))
        if found and found[1] > self.furthest.get(found[0], found[1][:0]):
            self.furthest[found[0]] = found[1]
            self.seen.append((now, *found))
            self.events.put((now, *found))

    def chunk(self, data):
        if self.anchor is None and data[12:14] == b"LS" and data[17] == 1:
            index, = struct.unpack_from("<I", data, 16 + 24)
            self.anchor = index, struct.pack(">II", *struct.unpack_from("<II", data, 16 + 48)).hex()

    def forget(self):
        while not self.events.empty():
            self.events.get_nowait()

    def next(self):
        """When the next segment could be read."""
        return self.events.get(timeout=60)[0]

    def waits(self, log):
        """For each commit in a log of application.py, the seconds until a segment reached it. For our segments only."""
        rig.until("a segment", lambda: self.anchor)
        commits = [line.split() for line in open(log)]
        salts = list(dict.fromkeys(salt for _, salt, _ in commits))
        first = self.anchor[0] - salts.index(self.anchor[1])
        index = {salt: first + place for place, salt in enumerate(salts)}
        wanted = [(float(when), (index[salt], 32 + int(frames) * FRAME)) for when, salt, frames in commits]
        rig.until("the last commit", lambda: self.seen[-1][2][1:] >= wanted[-1][1], 60)
        ends = [reach[1:] for _, _, reach in self.seen]
        return [self.seen[bisect.bisect_left(ends, reach)][0] - when for when, reach in wanted]
