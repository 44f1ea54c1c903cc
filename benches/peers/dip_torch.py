"""The presets' DIP networks in PyTorch: milliseconds per iteration (forward, backward, Adam).

    python dip_torch.py [--threads N] [--seconds S]         times them; JSON on standard output
    python dip_torch.py --check FILE.safetensors...         compares with recorded float64 numbers

`in turn` runs one network after the other, as DIPDefend's authors publish it; `grouped` is the best
PyTorch does: all instances as groups of one network, so that each layer is one call.
"""

import argparse
import json
import struct
import sys

import torch
from torch import nn
from torch.nn import functional

import timing

SLOPE = 0.2
SHARED = {"upsample": "bilinear", "lr": 0.01}
SMALL = SHARED | {"input_depth": 1, "pad": "zero", "optimise_input": True}
LARGE = SHARED | {"input_depth": 32, "pad": "reflection", "optimise_input": False}


def preset(base, channels, skip):
    channels = list(channels)
    return base | {"down": channels, "up": channels, "skip": [skip] * len(channels)}


TILES = preset(SMALL, [3, 3, 4], 0)
CIFAR = preset(SMALL, [4, 8, 16], 0)
SKIP = preset(LARGE, [16, 32, 64, 128, 128], 4)
WIDE = preset(LARGE, [128] * 5, 4)


class Dip(nn.Module):
    """`instances` independent networks of one shape as groups: channels `[instance][channel]`."""

    def __init__(self, config, instances=1):
        super().__init__()
        self.config, self.instances = config, instances
        depth = config["input_depth"]
        for k, (down, up, skip) in enumerate(zip(config["down"], config["up"], config["skip"])):
            deepest = k + 1 == len(config["down"])
            merged = skip + (down if deepest else config["up"][k + 1])
            level = nn.Module()
            if skip:
                self.layer(level, "skip", depth, skip, 1)
            self.layer(level, "down", depth, down, 3, stride=2)
            self.layer(level, "mid", down, down, 3)
            level.merge_bn = self.norm(merged)
            self.layer(level, "up", merged, up, 3)
            self.layer(level, "fuse", up, up, 1)
            self.add_module(f"level{k}", level)
            depth = down
        self.out_conv = self.conv(config["up"][0], 3, 1)

    def conv(self, channels, out, kernel, stride=1):
        n = self.instances
        mode = "reflect" if self.config["pad"] == "reflection" and kernel > 1 else "zeros"
        return nn.Conv2d(
            n * channels, n * out, kernel, stride, kernel // 2, groups=n, padding_mode=mode
        )

    def norm(self, channels):
        # A batch of one: statistics are each channel's own, hence each instance's own.
        return nn.BatchNorm2d(self.instances * channels, eps=1e-5, track_running_stats=False)

    def layer(self, level, name, channels, out, kernel, stride=1):
        level.add_module(f"{name}_conv", self.conv(channels, out, kernel, stride))
        level.add_module(f"{name}_bn", self.norm(out))

    @staticmethod
    def run(level, name, x):
        x = getattr(level, f"{name}_bn")(getattr(level, f"{name}_conv")(x))
        return functional.leaky_relu(x, SLOPE)

    def concatenate(self, first, second):
        """Along the channels of each instance."""
        n, (height, width) = self.instances, first.shape[2:]
        parts = [part.view(n, -1, height, width) for part in (first, second)]
        return torch.cat(parts, 1).view(1, -1, height, width)

    def level(self, k, x):
        level = getattr(self, f"level{k}")
        y = self.run(level, "mid", self.run(level, "down", x))
        if k + 1 < len(self.config["down"]):
            y = self.level(k + 1, y)
        bilinear = self.config["upsample"] == "bilinear"
        y = functional.interpolate(
            y, scale_factor=2, mode=self.config["upsample"],
            align_corners=False if bilinear else None,
        )
        if self.config["skip"][k]:
            y = self.concatenate(self.run(level, "skip", x), y)
        return self.run(level, "fuse", self.run(level, "up", level.merge_bn(y)))

    def forward(self, z):
        return torch.sigmoid(self.out_conv(self.level(0, z)))


class Fit:
    """One optimisation: a network, its input, its target and Adam."""

    def __init__(self, config, height, width, instances=1):
        self.network = Dip(config, instances)
        self.z = 0.1 * torch.rand(1, instances * config["input_depth"], height, width)
        self.target = torch.rand(1, instances * 3, height, width)
        self.z.requires_grad_(config["optimise_input"])
        moved = [*self.network.parameters(), *([self.z] if config["optimise_input"] else [])]
        self.adam = torch.optim.Adam(moved, lr=config["lr"])

    def step(self):
        self.adam.zero_grad()
        # Each instance's loss is its own mean; their sum keeps the gradients apart.
        loss = (self.network(self.z) - self.target).square().mean() * self.network.instances
        loss.backward()
        self.adam.step()


def benchmark(seconds):
    """One row a case: preset, size, instances, how, and the times of one iteration of all."""
    cases = [
        ("tiles", TILES, 32, 49, "in turn"),
        ("tiles", TILES, 32, 49, "grouped"),
        ("cifar", CIFAR, 32, 1, "grouped"),
        ("cifar", CIFAR, 32, 16, "grouped"),
        ("cifar", CIFAR, 32, 64, "grouped"),
        ("skip", SKIP, 224, 1, "grouped"),
        ("wide", WIDE, 224, 1, "grouped"),
    ]
    rows = []
    for name, config, side, instances, how in cases:
        print(f"PyTorch: {name}, {instances} instances {how}", file=sys.stderr, flush=True)
        if how == "in turn":
            fits = [Fit(config, side, side) for _ in range(instances)]
        else:
            fits = [Fit(config, side, side, instances)]

        def step():
            for fit in fits:
                fit.step()

        rows.append({"preset": name, "side": side, "instances": instances, "how": how}
                    | timing.measure(step, seconds))
    return rows


def read_safetensors(path):
    """Float64 tensors by name, and the metadata."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    tensors = {
        name: torch.frombuffer(data, dtype=torch.float64, offset=entry["data_offsets"][0],
                               count=(entry["data_offsets"][1] - entry["data_offsets"][0]) // 8
                               ).view(entry["shape"])
        for name, entry in header.items() if entry["dtype"] == "F64"
    }
    return tensors, metadata


def check(path, instances=3):
    """The largest difference of any instance to the recorded first output and gradients."""
    tensors, metadata = read_safetensors(path)
    config = json.loads(metadata["config"])
    fit = Fit(config, config["height"], config["width"], instances)
    fit.network.double()
    prefix = "initial."
    for name, parameter in fit.network.named_parameters():
        value = tensors[prefix + name]
        parameter.data = value.repeat(instances, *[1] * (value.dim() - 1))
    repeat = (1, instances, 1, 1)
    fit.z = tensors["z"].repeat(repeat)
    fit.target = tensors["target"].repeat(repeat)
    fit.z.requires_grad_(config["optimise_input"])
    worst = (fit.network(fit.z) - tensors["output.1"].repeat(repeat)).abs().max().item()
    fit.step()
    gradients = dict(fit.network.named_parameters())
    if config["optimise_input"]:
        gradients["z"] = fit.z
    for name, parameter in gradients.items():
        expected = tensors[f"gradient.{name}"]
        axis = 1 if name == "z" else 0
        for one in parameter.grad.chunk(instances, axis):
            worst = max(worst, (one - expected).abs().max().item())
    return worst


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=timing.cores())
    parser.add_argument("--seconds", type=float, default=5, help="for each case")
    parser.add_argument("--check", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.check:
        differences = {path: check(path) for path in arguments.check}
        for path, difference in differences.items():
            print(f"{path}: largest difference of first output and gradients {difference:.1e}")
        sys.exit(any(not difference <= 1e-10 for difference in differences.values()))
    rows = benchmark(arguments.seconds)
    json.dump({"peer": f"PyTorch {torch.__version__}", "threads": arguments.threads, "dip": rows},
              sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
