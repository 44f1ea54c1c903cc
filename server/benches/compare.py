#!/usr/bin/env python3
"""Sets backstitch-server beside `backstitch purify`, in turns on the same pictures with the same options.

    compare.py --program backstitch --server backstitch-server --classifier FILE PICTURES [OPTION...]

PICTURES is a folder of PNG files; OPTIONs are the defense's, for both programs (`--preset cifar`). Prints JSON:

- throughput_of_purify: pictures a second of eight clients that each send one picture at a time, as a share of those of
  `purify` by its run.json. Its start and the loading of its model are not counted; purify_start_seconds has them;
- processor_seconds: those that a picture took of processors, in `purify` with its start and in the service;
- latency_of_purify: the seconds of a request when nothing else is worked on, as a multiple of those of `purify` of that
  picture, counted in the same way;
- resident_bytes: the service's memory after that;
- short_behind_long: when a request of `--long` pictures, and one of a single picture that is sent after it, end.

Every response is compared with the file that `purify` wrote; the script fails if a byte differs.
"""

import argparse
import asyncio
import base64
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from service import Service

CLIENTS = 8
MODEL = "model"
# A client gets half of it.
ROOM = ["--queue-pictures", "1024"]


class Purify:
    """Runs of `backstitch purify` with the same options."""

    def __init__(self, program, classifier, options, folder):
        self.command = [program, "purify", "--classifier", classifier, "--no-report", *options]
        self.folder = folder

    def run(self, pictures):
        """The seconds of a run and of the whole process, and the purified files by name."""
        given, out = self.folder / "given", self.folder / "out"
        for folder in (given, out):
            shutil.rmtree(folder, ignore_errors=True)
        given.mkdir()
        for picture in pictures:
            (given / picture.name).symlink_to(picture.resolve())
        start = time.perf_counter()
        subprocess.run([*self.command, given, "-o", out], check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - start
        run = json.loads((out / "run.json").read_text())
        purified = {picture.name: (out / "images" / picture.name).read_bytes() for picture in pictures}
        return run["seconds"], whole, purified


async def purified(service, picture, want):
    """The seconds of one request, whose response must be `want`."""
    start = time.perf_counter()
    answer = await service.request("POST", "/purify", picture.read_bytes())
    seconds = time.perf_counter() - start
    if answer.status != 200 or answer.body != want[picture.name]:
        sys.exit(f"{picture}: {answer.status}, not what purify wrote")
    return seconds


async def all_purified(service, pictures, want):
    """The seconds for all pictures from eight clients."""
    waiting = list(reversed(pictures))

    async def client():
        while waiting:
            await purified(service, waiting.pop(), want)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return time.perf_counter() - start


async def short_behind_long(service, pictures, want, count):
    start = time.perf_counter()
    files = [base64.b64encode(picture.read_bytes()).decode() for picture in (pictures * count)[:count]]
    tensor = {"name": "bytes", "datatype": "BYTES", "shape": [count], "data": files}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "verdict"}]}).encode()

    async def ended(request):
        answer = await request
        return answer, time.perf_counter() - start

    long = asyncio.create_task(ended(service.request("POST", f"/v2/models/{MODEL}/infer", body)))
    while await service.metric("backstitch_held_pictures") < count:
        await asyncio.sleep(0.005)
    await purified(service, pictures[0], want)
    short = time.perf_counter() - start
    answer, seconds = await long
    assert answer.status == 200, answer
    return {"long_seconds": seconds, "short_seconds": short}


async def in_turns(rounds, purify, service):
    """Seconds of `purify` and of the service, in turns: which is first changes."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            after = await service()
            pairs.append((purify(), after))
        else:
            before = purify()
            pairs.append((before, await service()))
    return pairs


def summary(pairs, ratio):
    ratios = sorted(ratio(*pair) for pair in pairs)
    return {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1], "seconds": pairs}


def processor_seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def compare(args, options, folder):
    pictures = sorted(args.pictures.glob("**/*.png"))[: args.pictures_of_a_round]
    purify = Purify(args.program, args.classifier, options, folder)
    with Service(args.server, ["--model", f"{MODEL}={args.classifier}", *ROOM, *options]) as service:
        starts = []

        def purify_all():
            seconds, whole, _ = purify.run(pictures)
            starts.append(whole - seconds)
            return seconds

        _, _, want = purify.run(pictures)
        before = processor_seconds_of_children(), service.processor_seconds()
        together = await in_turns(args.rounds, purify_all, lambda: all_purified(service, pictures, want))
        after = processor_seconds_of_children(), service.processor_seconds()
        alone = []
        for picture in pictures[: args.alone]:
            one = lambda: purify.run([picture])[0]
            alone += await in_turns(2, one, lambda: purified(service, picture, want))
        return {
            "pictures": len(pictures),
            "purify_start_seconds": statistics.median(starts),
            "throughput_of_purify": summary(together, lambda purify, service: purify / service),
            "processor_seconds": [(after[i] - before[i]) / args.rounds / len(pictures) for i in (0, 1)],
            "latency_of_purify": summary(alone, lambda purify, service: service / purify),
            "resident_bytes": service.resident(),
            "short_behind_long": await short_behind_long(service, pictures, want, args.long),
        }


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--program", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--pictures-of-a-round", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", type=int, default=5)
    parser.add_argument("--long", type=int, default=16)
    parser.add_argument("pictures", type=Path)
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(compare(args, options, Path(folder))), indent=1))


if __name__ == "__main__":
    main()
