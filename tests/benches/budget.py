"""A small machine inside this one: one core for a part of its time, and so much memory.

Control groups of either version do it, where this user may make them; else signals that stop and continue, and a limit on
data. Memory of a control group includes what the kernel caches of files.
"""

import os
import resource
import signal
import threading
import time

ROOT = "/sys/fs/cgroup"
PERIOD = 100_000


class Budget:
    def __init__(self, part, memory):
        self.part, self.memory, self.groups, self.over = part, memory, [], threading.Event()
        self.core = min(os.sched_getaffinity(0))

    def __enter__(self):
        quota = int(PERIOD * self.part)
        try:
            if os.path.exists(ROOT + "/cgroup.controllers"):
                self.group("", {"cpu.max": f"{quota} {PERIOD}", "memory.max": self.memory})
            else:
                self.group("cpu", {"cpu.cfs_period_us": PERIOD, "cpu.cfs_quota_us": quota})
                self.group("memory", {"memory.limit_in_bytes": self.memory})
        except OSError:
            self.leave()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.leave()

    def group(self, controller, limits):
        path = os.path.join(ROOT, controller, f"litestream-bench-{os.getpid()}")
        os.mkdir(path)
        self.groups.append(path)
        for name, value in limits.items():
            with open(os.path.join(path, name), "w") as file:
                file.write(str(value))

    def leave(self):
        while self.groups:
            os.rmdir(self.groups.pop())

    def how(self):
        return "control groups" if self.groups else "signals"

    def enter(self):
        """In the child, before its program begins."""
        os.sched_setaffinity(0, {self.core})
        for path in self.groups:
            with open(os.path.join(path, "cgroup.procs"), "w") as file:
                file.write("0")
        if not self.groups:
            resource.setrlimit(resource.RLIMIT_DATA, (self.memory, self.memory))

    def hold(self, pid):
        """Without groups: lets it run for its part of each period."""
        def work():
            try:
                while not self.over.is_set():
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(PERIOD / 1e6 * (1 - self.part))
                    os.kill(pid, signal.SIGCONT)
                    time.sleep(PERIOD / 1e6 * self.part)
            except ProcessLookupError:
                pass

        if not self.groups:
            threading.Thread(target=work, daemon=True).start()
