"""Shows a backup and its restore on real parts: nats-server, a writing application, a kill -9 in the middle.

demo.py LITESTREAM-BINARY     exits 1 if anything restored differs from the live database. Standard library only.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS = 8
RATE = 250
PATIENCE = 60
started = []


def say(text):
    print(f"{time.monotonic() - BEGIN:6.2f} s  {text}", flush=True)


def size(path):
    return sum(os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end))


def mb(count):
    return f"{count / 1e6:.2f} MB"


def start(name, words, folder):
    log = open(os.path.join(folder, name + ".log"), "a")
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    started.append(process)
    return process


def run(words):
    """Runs a command that must succeed; what it printed, and the seconds it took."""
    begin = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip(), time.monotonic() - begin


def until(what, look):
    end = time.monotonic() + PATIENCE
    while not look():
        if time.monotonic() > end:
            sys.exit(f"demo: {what}: not within {PATIENCE} s")
        time.sleep(0.05)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident(process):
    """The peak of a process's resident memory in MB, where the system tells."""
    try:
        with open(f"/proc/{process.pid}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) / 1000
    except (OSError, TypeError):
        return None


def server(folder):
    found, _ = run([sys.executable, os.path.join(HERE, "find-nats-server")])
    port = free_port()
    start("nats-server", [found, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", os.path.join(folder, "jetstream")], folder)
    until("nats-server listens", lambda: listens(port))
    version, _ = run([found, "--version"])
    say(f"started {version} with an empty store")
    return f"nats://127.0.0.1:{port}/demo"


def demo(binary, folder):
    script = lambda name: [sys.executable, os.path.join(HERE, name)]
    database, restored = os.path.join(folder, "app.db"), os.path.join(folder, "restored.db")
    commits = os.path.join(folder, "commits")
    url = server(folder)

    run(script("workload.py") + [database, commits, "--commits", "1"])
    application = start("workload", script("workload.py") + [database, commits, "--seconds", str(SECONDS), "--rate", str(RATE)], folder)
    say(f"an application writes to app.db, {RATE} transactions a second, with Python's SQLite")

    follow = [binary, "replicate", "-create-bucket", database, url]
    replicator = start("replicate", follow, folder)
    say("litestream replicate app.db " + url)
    time.sleep(SECONDS / 2)
    alive(replicator, folder)
    replicator.kill()
    replicator.wait()
    # A line with a question mark says that a commit is about to be made.
    seen = sum(1 for line in open(commits) if not line.startswith("?"))
    say(f"kill -9 to the replicator, after {seen} commits; the application goes on")
    time.sleep(0.5)
    replicator = start("replicate", follow, folder)
    say("litestream replicate again")

    application.wait()
    last = open(commits).readlines()[-1].split()[0]
    say(f"the application has ended after {last} commits; app.db and its WAL have {mb(size(database))}")
    alive(replicator, folder)
    memory = resident(replicator)
    begin = time.monotonic()
    replicator.send_signal(signal.SIGTERM)
    if replicator.wait(PATIENCE) != 0:
        sys.exit(f"demo: replicate: exit status {replicator.returncode}\n{log(folder)}")
    peak = f"; it had {memory:.1f} MB resident at most" if memory else ""
    say(f"SIGTERM: the replicator stored the rest and ended in {time.monotonic() - begin:.2f} s{peak}")

    _, took = run([binary, "restore", "-o", restored, url])
    say(f"litestream restore: {mb(size(restored))} in {took:.2f} s; the store has {mb(stored(folder))} on its disk")
    verdict, _ = run(script("judge.py") + ["state", restored])
    seq, _, rows, _ = verdict.split()
    say(f"PRAGMA integrity_check: ok; commit {seq} of {last}, {rows} rows that add up to their checksum")
    run(script("judge.py") + ["equal", database, restored])
    say("app.db and restored.db are equal, row for row")


def alive(replicator, folder):
    if replicator.poll() is not None:
        sys.exit(f"demo: replicate ended: exit status {replicator.returncode}\n{log(folder)}")


def log(folder):
    with open(os.path.join(folder, "replicate.log")) as file:
        return file.read()


def stored(folder):
    files = [os.path.join(top, name) for top, _, names in os.walk(os.path.join(folder, "jetstream")) for name in names]
    return sum(map(os.path.getsize, files))


def main(binary):
    folder = tempfile.mkdtemp(prefix="litestream-demo-")
    done = False
    try:
        demo(os.path.abspath(binary), folder)
        done = True
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
        if done:
            shutil.rmtree(folder)
        else:
            print(f"demo: the files are kept in {folder}", file=sys.stderr)


BEGIN = time.monotonic()
if __name__ == "__main__":
    main(*sys.argv[1:])
