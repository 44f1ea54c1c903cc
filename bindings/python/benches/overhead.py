"""What the Python package adds to the Rust library: processor time for the same pictures, in turns.

    cargo build --release -p backstitch-python --example library
    python benches/overhead.py target/release/examples/library MODEL.onnx PICTURES.npy [ITERATIONS [PAIRS]]

The pictures are (N, 3, H, H) from 0 to 1. Prints the ratio of each pair, less 1, and their median. Processor time,
because other programs that run meanwhile change it less than the clock's.
"""

import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np

import backstitch


def main(library, model, file, iterations="200", pairs="7"):
    x = np.ascontiguousarray(np.load(file), np.float32)
    # The library rounds outputs to multiples of 1/255 by default.
    purifier = backstitch.Purifier(model, preset="cifar", iterations=int(iterations), device="cpu", eight_bit=True)
    with tempfile.NamedTemporaryFile() as raw:
        x.tofile(raw.name)
        line = [library, model, raw.name, str(x.shape[2]), iterations]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as rust:

            def by_rust():
                rust.stdin.write("\n")
                rust.stdin.flush()
                return float(rust.stdout.readline())

            def by_python():
                return purifier.purify(x).images.sum(dtype=np.float64)

            assert np.isclose(by_rust(), by_python(), rtol=1e-9)  # and both are warm
            overheads = []
            for pair in range(int(pairs)):
                calls = [(by_rust, rust.pid), (by_python, os.getpid())]
                seconds = {}
                for call, process in calls if pair % 2 else reversed(calls):
                    before = processor_time(process)
                    call()
                    seconds[call] = processor_time(process) - before
                overheads.append(seconds[by_python] / seconds[by_rust] - 1)
                print(f"{seconds[by_rust]:.2f} s by Rust, {overheads[-1]:+.2%} by Python", flush=True)
            rust.stdin.close()
    print(f"median {statistics.median(overheads):+.2%}, {len(x)} pictures, {iterations} iterations")


def processor_time(process):
    """Seconds of all threads, of the program and of the kernel for it."""
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(*sys.argv[1:])
