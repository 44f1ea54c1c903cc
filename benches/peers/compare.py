"""Measures backstitch and its peers in one run and prints the ratios.

    python compare.py [--classifiers FOLDER] [--out FILE.json]
                      [--backstitch PATH] [--threads N] [--seconds S]

Times are milliseconds: of one iteration of all instances for DIP networks, of one image for
classifiers. A ratio above 1 means that backstitch is faster. The peers' times are the least of their
samples, which favors them. The classifiers are those that `export_networks.py` writes to FOLDER,
each measured by all before the next. Run `setup.sh` first, and `cargo build --release`.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import timing

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def run_json(command):
    """What `command` prints, as JSON; its standard error goes through."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        return json.loads(done.stdout)
    except FileNotFoundError:
        sys.exit(f"{command[0]}: not found; build it with `cargo build --release`")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, command))}: exit status {error.returncode}")
    except json.JSONDecodeError as error:
        sys.exit(f"{' '.join(map(str, command))}: no JSON ({error})")


def processor():
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def row(what, ours, peer, how, theirs):
    return {
        "what": what, "backstitch_ms": ours, "peer": f"{peer}{', ' if how else ''}{how}",
        "peer_ms": theirs, "ratio": None if ours is None else theirs / ours,
    }


def dip_rows(bench, torch):
    """One row for each of PyTorch's cases; backstitch's figure where `bench` has the same case."""
    ours = {(entry["preset"], entry["instances"]): entry["ms_per_iteration"]
            for entry in bench["presets"]}
    return [
        row(f"{case['preset']} x{case['instances']}, one iteration",
            ours.get((case["preset"], case["instances"])),
            torch["peer"], case["how"], case["min_ms"])
        for case in torch["dip"]
    ]


def classifier_rows(name, ours, peers):
    # The gradient's time is that of a batch, as attacks use it.
    figures = {
        ("logits", 1): ours.get("ms_per_image_batch1"),
        ("logits", 16): ours.get("ms_per_image"),
        ("logits and gradient", 16): ours.get("ms_per_gradient"),
    }
    return [
        {"classifier": name} | row(
            f"{name}, {case['what']}, batch {case['batch']}",
            figures.get((case["what"], case["batch"])), peer["peer"], "", case["min_ms"])
        for peer in peers for case in peer["classifier"]
    ]


def geometric_means(rows):
    """Of the classifiers' ratios, by what was measured and against whom."""
    logs = {}
    for entry in rows:
        if "classifier" in entry and entry["ratio"] is not None:
            what = entry["what"].removeprefix(f"{entry['classifier']}, ")
            logs.setdefault(f"{what}, {entry['peer']}", []).append(math.log(entry["ratio"]))
    return {what: math.exp(sum(values) / len(values)) for what, values in logs.items()}


def print_table(rows):
    def number(value):
        return "-" if value is None else f"{value:.2f}"

    width = max(len(entry["what"]) for entry in rows)
    print(f"{'':{width}}  {'backstitch':>10}  {'peer':>9}  {'ratio':>6}  peer")
    for entry in rows:
        print(f"{entry['what']:{width}}  {number(entry['backstitch_ms']):>10}  "
              f"{number(entry['peer_ms']):>9}  {number(entry['ratio']):>6}  {entry['peer']}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classifiers", type=Path, help="where export_networks.py has written")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--backstitch", default=ROOT / "target" / "release" / "backstitch")
    parser.add_argument("--threads", type=int, default=timing.cores())
    parser.add_argument("--seconds", type=float, default=5, help="for each of a peer's cases")
    arguments = parser.parse_args()

    def peer(script, *positional):
        limits = ["--threads", str(arguments.threads), "--seconds", str(arguments.seconds)]
        return run_json([sys.executable, HERE / script, *positional, *limits])

    def ours(*options):
        command = [arguments.backstitch, "bench", "--device", "cpu", "--json", *options]
        print(f"backstitch: {' '.join(map(str, command[1:]))}", file=sys.stderr, flush=True)
        return run_json(command)

    bench = ours()
    rows = dip_rows(bench, peer("dip_torch.py"))
    classifiers = {}
    if arguments.classifiers:
        models = sorted(arguments.classifiers.glob("*.onnx"))
        if not models:
            sys.exit(f"{arguments.classifiers}: no models; run export_networks.py")
        for model in models:
            name = model.stem
            peers = [peer("classifier_onnxruntime.py", model), peer("classifier_torch.py", name)]
            # One preset only, as it cannot be none.
            classifiers[name] = ours("--classifier", model, "--preset", "tiles")["classifier"]
            rows += classifier_rows(name, classifiers[name], peers)
    print_table(rows)
    means = geometric_means(rows)
    for what, mean in means.items():
        print(f"{what}: {mean:.2f} as a geometric mean over the classifiers")
    if arguments.out:
        report = {"processor": processor(), "cores": timing.cores(),
                  "threads_of_peers": arguments.threads, "bench": bench,
                  "classifiers": classifiers, "rows": rows,
                  "geometric_means_over_classifiers": means}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
