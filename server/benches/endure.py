#!/usr/bin/env python3
"""Asks backstitch-server for twice what it can do, for long, and looks at what it answers and at its memory.

    endure.py --server backstitch-server --classifier FILE [--seconds 600] PICTURES [OPTION...]

PICTURES is a folder of PNG files; OPTIONs are the service's (`--preset cifar --iterations 50`). Prints JSON:

- capacity: pictures a second that as many clients get as there is room for, each sending one picture at a time;
- load: requests that come at twice that rate, whatever became of those before; their statuses, the seconds to each
  status, and the process's memory in every second after the first tenth;
- aborted: after 200 clients that go away without reading, seconds until the service holds nothing of theirs, and the
  statuses of the 20 clients that come next;
- questions: 100,000 requests of health and metrics, and the memory before and after.

Fails if a request under load ends with anything but 200, 429 or 504, if the memory leaves 5% around its median, or if one
of the 20 is not served.
"""

import argparse
import asyncio
import collections
import json
import statistics
import sys
import time
from pathlib import Path

from service import Service

CLIENTS = 32
ABORTED, NEXT = 200, 20
QUESTIONS = 100_000
PATHS = ("/v2/health/live", "/v2/health/ready", "/metrics")
# An address gets half of the room.
ROOM = ["--queue-pictures", "64", "--request-timeout", "60"]


def quantiles(seconds):
    ordered = sorted(seconds)
    at = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4)
    return {"median": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "most": at(1), "count": len(ordered)}


def memory(samples):
    """Bytes in the middle, and by which share of them the farthest sample differs."""
    middle = statistics.median(samples)
    return {"bytes": middle, "spread": max(abs(sample - middle) for sample in samples) / middle}


async def capacity(service, pictures, seconds):
    end = time.perf_counter() + seconds
    done = 0

    async def client(number):
        nonlocal done
        while time.perf_counter() < end:
            answer = await service.request("POST", "/purify", pictures[number % len(pictures)])
            assert answer.status == 200, answer
            number, done = number + CLIENTS, done + 1

    start = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return done / (time.perf_counter() - start)


async def load(service, pictures, rate, seconds):
    ended = collections.defaultdict(list)
    resident = []

    async def one(number):
        start = time.perf_counter()
        try:
            status = (await service.request("POST", "/purify", pictures[number % len(pictures)])).status
        except (OSError, EOFError) as error:
            status = type(error).__name__
        ended[status].append(time.perf_counter() - start)

    async def watch():
        await asyncio.sleep(seconds / 10)
        while True:
            resident.append(service.resident())
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    requests = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(start + number / rate - time.perf_counter())
        requests.append(asyncio.create_task(one(number)))
    await asyncio.gather(*requests)
    watching.cancel()
    return {
        "requests_a_second": rate,
        "seconds": {str(status): quantiles(all) for status, all in ended.items()},
        "refused_later_than_50_ms": sum(seconds > 0.05 for seconds in ended[429]),
        "memory": memory(resident),
    }


async def aborted(service, pictures):
    for number in range(ABORTED):
        connection = await service.connect()
        connection.send("POST", "/purify", pictures[number % len(pictures)])
        await connection.writer.drain()
        connection.close()
    start = time.perf_counter()
    while await service.metric("backstitch_held_pictures") > 0:
        await asyncio.sleep(0.005)
    empty = time.perf_counter() - start
    following = (service.request("POST", "/purify", pictures[number % len(pictures)]) for number in range(NEXT))
    statuses = [answer.status for answer in await asyncio.gather(*following)]
    return {"empty_after_seconds": empty, "next": dict(collections.Counter(statuses))}


async def questions(service):
    async def client(count):
        connection = await service.connect()
        for number in range(count):
            answer = await connection.request("GET", PATHS[number % len(PATHS)])
            assert answer.status == 200, answer
        connection.close()

    await asyncio.gather(*(client(QUESTIONS // 100) for _ in range(CLIENTS)))
    samples = [service.resident()]
    for _ in range(10):
        await asyncio.gather(*(client(QUESTIONS // 10 // CLIENTS) for _ in range(CLIENTS)))
        samples.append(service.resident())
    return {"requests": QUESTIONS, "memory": memory(samples)}


async def endure(args, options):
    pictures = [path.read_bytes() for path in sorted(args.pictures.glob("**/*.png"))]
    with Service(args.server, ["--model", f"model={args.classifier}", *ROOM, *options]) as service:
        await capacity(service, pictures, 2)
        able = await capacity(service, pictures, max(2, args.seconds / 20))
        return {
            "capacity": able,
            "load": await load(service, pictures, 2 * able, args.seconds),
            "aborted": await aborted(service, pictures),
            "questions": await questions(service),
        }


def wrong(found):
    """What is not as it must be."""
    others = found["load"]["seconds"].keys() - {"200", "429", "504"}
    if others:
        yield f"requests ended with {', '.join(others)}"
    for part in ("load", "questions"):
        if found[part]["memory"]["spread"] > 0.05:
            yield f"{part}: the memory is not flat"
    if found["aborted"]["next"] != {200: NEXT}:
        yield "the clients after those that went away were not all served"


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--server", required=True)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("pictures", type=Path)
    args, options = parser.parse_known_args()
    found = asyncio.run(endure(args, options))
    print(json.dumps(found, indent=1))
    sys.exit("; ".join(wrong(found)) or 0)


if __name__ == "__main__":
    main()
