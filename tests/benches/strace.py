"""What a running process writes to files, and how often it syncs one, as strace sees it."""

import os
import re
import shutil
import subprocess
import sys
import time

CALLS = "write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range"


class Trace:
    def __init__(self, pid, top):
        if not shutil.which("strace"):
            sys.exit("bench: strace is missing: apt-get install strace")
        self.path = os.path.join(top, "strace")
        words = ["strace", "-f", "-y", "-qq", "-s", "0", "-e", "trace=" + CALLS, "-p", str(pid), "-o", self.path]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        self.begin = self.end = 0.0

    def __enter__(self):
        # Until it is attached, some calls would be missed.
        time.sleep(1)
        self.begin = time.monotonic()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.end = time.monotonic()

    def calls(self, names):
        """(path, result) of each call on a file with a path; the log goes to a file too, and is not counted."""
        waiting = {}
        with open(self.path) as file:
            for line in file:
                thread = line.split()[0]
                begun = re.search(rf"\b(?:{names})\(\d+<(/[^>]*)>", line)
                path = begun[1] if begun else waiting.pop(thread, None) if re.search(rf"<\.\.\. (?:{names}) resumed", line) else None
                if path is None or path.endswith(".log") or path.startswith("/dev/"):
                    continue
                if result := re.search(r" = (\d+)$", line):
                    yield path, int(result[1])
                else:
                    waiting[thread] = path

    def written(self, but):
        return sum(count for path, count in self.calls("p?writev?2?|pwrite64") if path not in but)

    def syncs(self):
        """A minute, of anything."""
        return len(list(self.calls("fsync|fdatasync|sync_file_range"))) * 60 / (self.end - self.begin)
