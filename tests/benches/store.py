#!/usr/bin/env python3
"""Puts and gets of the NATS store beside nats-py, near by and far, in clear text and over TLS. `make bench-store` runs it.

    store.py BENCH_BINARY NATS_SERVER [-keep]

One nats-server, one machine, one run: figures of different runs do not compare. -keep writes them into results.json.
"""

import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
import time

import report
import rig

SIZE = 50_000_000
SMALL = 2_000
ROUNDS = 30


def certificates(top):
    run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True)
    ca, key, request = (os.path.join(top, name) for name in ("ca.pem", "ca.key", "s.csr"))
    cert, server_key, names = (os.path.join(top, name) for name in ("s.pem", "s.key", "names"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("req", "-x509", *curve, "-days", "2", "-subj", "/CN=bench", "-keyout", key, "-out", ca)
    run("req", *curve, "-subj", "/CN=server", "-keyout", server_key, "-out", request)
    with open(names, "w") as file:
        file.write("subjectAltName=IP:127.0.0.1\n")
    run("x509", "-req", "-in", request, "-CA", ca, "-CAkey", key, "-CAcreateserial", "-days", "2", "-extfile", names, "-out", cert)
    return ca, cert, server_key


async def peer(port, ca):
    import nats

    context = ssl.create_default_context(cafile=ca) if ca else None
    nc = await nats.connect("nats://127.0.0.1:%d" % port, tls=context)
    js = nc.jetstream(timeout=60)
    store = await js.create_object_store("peer")
    data, figures = os.urandom(SIZE), []
    for work in (lambda: store.put("big", data), lambda: store.get("big")):
        begun = time.monotonic()
        await work()
        figures.append(SIZE / 1e6 / (time.monotonic() - begun))
    for work in (lambda n: store.put("s%d" % n, data[:SMALL]), lambda n: store.get("s%d" % n)):
        begun = time.monotonic()
        for n in range(ROUNDS):
            await work(n)
        figures.append((time.monotonic() - begun) * 1000 / ROUNDS)
    await nc.close()
    return figures


def ours(binary, port, ca):
    words = [binary, "--nocapture", "--ignored", "bench_store::"]
    env = dict(os.environ, BENCH_PORT=str(port), BENCH_CA=ca or "", BENCH_SIZE=str(SIZE), BENCH_ROUNDS=str(ROUNDS))
    out = subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout
    line = next(line for line in out.splitlines() if "figures:" in line)
    return [float(word) for word in line.split("figures:")[1].split()]


def main(binary, server, *keep):
    found = {}
    print("%-22s %9s %9s %11s %11s" % ("", "put MB/s", "get MB/s", "put 2kB ms", "get 2kB ms"))
    for tls in (False, True):
        with tempfile.TemporaryDirectory() as top:
            ca, port, block = None, rig.free_port(), ""
            if tls:
                ca, cert, key = certificates(top)
                block = "tls { cert_file: '%s', key_file: '%s' }" % (cert, key)
            config = os.path.join(top, "nats.conf")
            with open(config, "w") as file:
                file.write("listen: '127.0.0.1:%d'\njetstream { store_dir: '%s/js' }\n%s\n" % (port, top, block))
            process = subprocess.Popen([server, "-c", config], stderr=subprocess.DEVNULL)
            try:
                time.sleep(2)
                for rtt in (0, 10, 100):
                    at = rig.Proxy(port, rtt / 2000).port if rtt else port
                    name = "%s, %s" % ("TLS" if tls else "plain", "%d ms" % rtt if rtt else "loopback")
                    found[name] = {"ours": show(name + ", ours", lambda: ours(binary, at, ca))}
                    if rtt < 100:
                        found[name]["nats-py"] = show(name + ", nats-py", lambda: asyncio.run(fresh(at, ca)))
            finally:
                process.kill()
                process.wait()
    if keep:
        report.save("store", found)


async def fresh(port, ca):
    import nats

    context = ssl.create_default_context(cafile=ca) if ca else None
    nc = await nats.connect("nats://127.0.0.1:%d" % port, tls=context)
    try:
        await nc.jetstream().delete_object_store("peer")
    except Exception:
        pass
    await nc.close()
    return await peer(port, ca)


def show(name, work):
    try:
        figures = work()
    except ImportError:
        print("%-22s skipped: no nats-py" % name)
        return None
    print("%-22s %9.1f %9.1f %11.2f %11.2f" % (name, *figures), flush=True)
    return figures


main(*sys.argv[1:])
