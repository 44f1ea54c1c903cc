"""Measures backstitch and its peers in one run and prints the ratios.

    python compare.py [--classifier MODEL.onnx] [--out FILE.json]
                      [--backstitch PATH] [--threads N] [--seconds S]

Times are milliseconds: of one iteration of all instances for DIP networks, of one image for the
classifier. A ratio above 1 means that backstitch is faster. The peers' times are the least of their
samples, which favours them. Run `setup.sh` first, and `cargo build --release`.
"""

import argparse
import json
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


def classifier_rows(bench, peers):
    ours = bench["classifier"]
    # The gradient's time is that of a batch, as attacks use it.
    figures = {
        ("logits", 1): ours.get("ms_per_image_batch1"),
        ("logits", 16): ours.get("ms_per_image"),
        ("logits and gradient", 16): ours.get("ms_per_gradient"),
    }
    return [
        row(f"classifier {case['what']}, batch {case['batch']}, one image",
            figures.get((case["what"], case["batch"])), peer["peer"], "", case["min_ms"])
        for peer in peers for case in peer["classifier"]
    ]


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
    parser.add_argument("--classifier", help="EfficientNet-Lite0 as the quickstart writes it")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--backstitch", default=ROOT / "target" / "release" / "backstitch")
    parser.add_argument("--threads", type=int, default=timing.cores())
    parser.add_argument("--seconds", type=float, default=5, help="for each of a peer's cases")
    arguments = parser.parse_args()

    def peer(script, *positional):
        limits = ["--threads", str(arguments.threads), "--seconds", str(arguments.seconds)]
        return run_json([sys.executable, HERE / script, *positional, *limits])

    command = [arguments.backstitch, "bench", "--device", "cpu", "--json"]
    if arguments.classifier:
        command += ["--classifier", arguments.classifier]
    print(f"backstitch: {' '.join(map(str, command[1:]))}", file=sys.stderr, flush=True)
    bench = run_json(command)
    rows = dip_rows(bench, peer("dip_torch.py"))
    if arguments.classifier:
        peers = [peer("classifier_onnxruntime.py", arguments.classifier),
                 peer("classifier_torch.py")]
        rows += classifier_rows(bench, peers)
    print_table(rows)
    if arguments.out:
        report = {"processor": processor(), "cores": timing.cores(),
                  "threads_of_peers": arguments.threads, "bench": bench, "rows": rows}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
