"""Another client of the Object Store, nats-py: what each writes the other must read.

other_client.py download SERVER BUCKET DIRECTORY   every object to a file of its name; each digest is checked
other_client.py upload SERVER BUCKET DIRECTORY     every file to an object of its name, in a new bucket
Ends with status 77 if nats-py is not there.
"""

import asyncio
import os
import sys

SKIPPED = 77

try:
    import nats
except ImportError:
    print("nats-py is not there", file=sys.stderr)
    sys.exit(SKIPPED)


async def download(jetstream, bucket, directory):
    store = await jetstream.object_store(bucket)
    for entry in await store.list():
        path = os.path.join(directory, entry.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            await store.get(entry.name, writeinto=file)


async def upload(jetstream, bucket, directory):
    store = await jetstream.create_object_store(bucket)
    for top, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(top, name)
            with open(path, "rb") as file:
                await store.put(os.path.relpath(path, directory), file)


async def main(command, server, bucket, directory):
    client = await nats.connect(server, allow_reconnect=False)
    await {"download": download, "upload": upload}[command](client.jetstream(timeout=60), bucket, directory)
    await client.close()


asyncio.run(main(*sys.argv[1:]))
