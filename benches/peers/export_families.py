"""Exports a random-weight model of every family of classifiers, with what it should give.

    python export_families.py FOLDER [--tiny] [--only NAME...]

For each row of families.py, FOLDER gets NAME.onnx (and NAME.onnx.data where its weights are
external) and NAME.safetensors:

    images     [n, 3, height, width] uint8; the model takes them divided by 255
    direction  [n, classes] float32, d
    logits     [n, classes] float32, what ONNX Runtime makes of NAME.onnx
    exact      [n, classes] float64, PyTorch's logits
    gradient   [n, 3, height, width] float32, PyTorch's gradient of the sum of d * logits with
               respect to what the model takes

and as metadata what the export is, and `float32_gradient`: how far PyTorch's own gradient in
float32 is from that, at most, relative to its largest number.

PyTorch computes in float64, on the weights that the file has. Without --tiny the models are
standard members of their families (3 GB in all), at 32x32 to 224x224; with it they are those in
tests/fixtures/families. `cargo test --test families` compares backstitch with those, and with what
the folder that the environment variable BACKSTITCH_FAMILIES names has.

Needs what `setup.sh` installs.
"""

import argparse
import contextlib
import copy
import io
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

from families import ROWS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLOSE, TRIES, ROUNDING = 1e-4, 20, 5e-7  # see `reference`
BATCH_NORM = nn.modules.batchnorm._BatchNorm


class Normalized(nn.Module):
    """A model that takes pixels in [0, 1]."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, image):
        return self.model((image - self.mean) / self.std)


def pictures(count, size, generator):
    """Smooth colors under some noise, uint8."""
    smooth = functional.interpolate(
        torch.rand(count, 3, 5, 5, generator=generator), (size, size), mode="bicubic")
    noise = 0.15 * torch.randn(count, 3, size, size, generator=generator)
    return ((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def randomize(model, generator):
    """Gives every parameter a value that matters: constructors start many at 0 or 1.

    Weights keep the magnitude of what they are multiplied with, about; tables of positions and
    other parameters without inputs are of magnitude 0.5.
    """
    def normal(parameter, std):
        return std * torch.randn(parameter.shape, generator=generator)

    for module in model.modules():
        inputs = isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.MultiheadAttention))
        for parameter in module.parameters(recurse=False):
            value = parameter.detach().mean().item()
            if inputs and parameter.dim() > 1 and parameter[0].numel() > 1:
                gain = 1.0 if isinstance(module, nn.Linear) else 1.4
                new = normal(parameter, gain / parameter[0].numel() ** 0.5)
            elif value > 0.5:
                new = value + normal(parameter, 0.2)
            elif parameter.dim() > 1 and parameter.shape[-1] > 1:
                new = normal(parameter, 0.5)
            else:
                new = normal(parameter, 0.2)
            parameter.data.copy_(new)
    return model


def calibrate(model, images, generator):
    """Random statistics, near those of the model's own activations."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORM)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # an average over all that is seen
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta):
        norm.eval()
        norm.momentum = momentum
        mean, variance = norm.running_mean, norm.running_var
        # Channels that hardly vary would be magnified, and their rounding with them.
        variance.clamp_(min=0.1 * variance.mean().item() + 1e-3)
        mean += 0.3 * variance.sqrt() * torch.randn(mean.shape, generator=generator)
        variance *= 0.6 + torch.rand(variance.shape, generator=generator)


def round_to_float16(model):
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(tensor.data.half().float())


def cast_weights(model):
    """The weights as float16, each with a node that casts it to float32."""
    nodes = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            name = tensor.name
            narrow = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(narrow, f"{name}_float16"))
            nodes.append(helper.make_node("Cast", [tensor.name], [name], f"{name}_cast",
                                          to=TensorProto.FLOAT))
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def strip(model):
    """Without where in Python's sources each node comes from, and with short names: most of a tiny
    file would be those."""
    def clear(holder):
        holder.ClearField("doc_string")
        if hasattr(holder, "metadata_props"):
            del holder.metadata_props[:]

    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info,
                   *model.graph.input, *model.graph.output, *model.graph.initializer):
        clear(holder)
    del model.graph.value_info[:]
    del model.functions[:]
    names = {entry.name: entry.name for entry in (*model.graph.input, *model.graph.output)}
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.name.rsplit('/', 1)[-1]}_{position}"
        for ends in (node.input, node.output):
            for index, name in enumerate(ends):
                if name:
                    ends[index] = names.setdefault(name, f"t{len(names)}")
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    return model


def export(row, model, size, tiny, path):
    """Writes the ONNX file."""
    image = torch.rand(2 if row.batch == "free" else 1, 3, size, size)
    buffer = io.BytesIO()
    free = row.batch == "free"
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if row.exporter == "dynamo":
            program = torch.onnx.export(
                model, (image,), dynamo=True, opset_version=row.opset, input_names=["image"],
                output_names=["logits"], verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},) if free else None)
            proto = program.model_proto
        else:
            mode = torch.onnx.TrainingMode
            torch.onnx.export(
                model, (image,), buffer, dynamo=False, opset_version=row.opset,
                input_names=["image"], output_names=["logits"],
                training=mode.PRESERVE if row.kept else mode.EVAL,
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}} if free else None)
            proto = onnx.load_from_string(buffer.getvalue())
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset != row.opset:
        raise SystemExit(f"{row.name}: the exporter wrote opset {opset}, not {row.opset}")
    if tiny:
        strip(proto)
    if row.precision == "float16 weights":
        cast_weights(proto)
    elif row.precision == "float16 graph":
        proto = convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True)
    if row.weights == "external":
        data = path.with_name(f"{path.name}.data")
        data.unlink(missing_ok=True)
        onnx.save_model(proto, str(path), save_as_external_data=True, location=data.name,
                        size_threshold=256 if tiny else 1024)
    else:
        onnx.save_model(proto, str(path))


def run_onnx(path, images, batch):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    chunks = [images] if batch == "free" else np.split(images, len(images))
    return np.concatenate([session.run(None, {"image": chunk})[0] for chunk in chunks])


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def derivative(model, images, direction):
    """Logits, and the gradient of the sum of direction * logits, in the precision of `images`."""
    leaf = images.detach().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad((direction.to(logits.dtype) * logits).sum(), leaf)
    return logits.detach().numpy(), gradient.numpy()


def reference(model, size, count, generator):
    """Pictures, and what PyTorch makes of them in float64.

    The gradient jumps where the input of a ReLU crosses 0, so there are pictures at which float32
    does not tell it. Of some, the first is taken at which PyTorch's own gradient in float32 (also
    with the picture changed by some roundings) is close to that in float64, or the one where it is
    closest; that distance is the last thing returned.
    """
    wide = copy.deepcopy(model).double()
    best = None
    for _ in range(TRIES):
        stored = pictures(count, size, generator)
        images = stored.float() / 255
        with torch.no_grad():
            classes = model(images[:1]).shape[1]
        direction = torch.randn(count, classes, generator=generator)
        exact, gradient = derivative(wide, images.double(), direction)
        distance = 0.0
        for step in (0.0, ROUNDING, ROUNDING, ROUNDING):
            moved = images + step * torch.randn(images.shape, generator=generator)
            distance = max(distance, relative(derivative(model, moved, direction)[1], gradient))
        if best is None or distance < best[-1]:
            best = stored, direction, exact, gradient, distance
        if distance < CLOSE:
            break
    return best


def make(row, folder, tiny):
    started = time.monotonic()
    generator = torch.Generator().manual_seed(row.seed)
    torch.manual_seed(row.seed)
    size = row.tiny_size if tiny else row.size
    model = (row.tiny if tiny else row.standard)().eval()
    randomize(model, generator)
    calibrate(model, (pictures(8, size, generator).float() / 255 - 0.45) / 0.22, generator)
    if row.normalized:
        model = Normalized(model).eval()
    if row.precision != "float32":
        round_to_float16(model)
    model.requires_grad_(False)
    path = folder / f"{row.name}.onnx"
    export(row, copy.deepcopy(model), size, tiny, path)

    stored, direction, exact, gradient, distance = reference(
        model, size, row.images if tiny else 1, generator)
    logits = run_onnx(path, (stored.float() / 255).numpy(), row.batch)
    save_file(
        {"images": stored.numpy(), "direction": direction.numpy(), "logits": logits,
         "exact": exact, "gradient": gradient.astype(np.float32)},
        folder / f"{row.name}.safetensors",
        {"family": row.family, "opset": str(row.opset), "exporter": row.exporter,
         "batch": row.batch, "weights": row.weights, "precision": row.precision,
         "float32_gradient": f"{distance:.2e}"})
    print(f"{row.name:22} {row.exporter:11} opset {row.opset} batch {row.batch:4} {row.weights:8} "
          f"{row.precision:15} {path.stat().st_size / 1e3:9.1f} kB "
          f"{(folder / f'{row.name}.safetensors').stat().st_size / 1e3:7.1f} kB  "
          f"logits in float32 {relative(logits, exact):.1e} gradient {distance:.1e} "
          f"{time.monotonic() - started:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="the ones that the repository carries")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows of families.py")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.backends.mha.set_fastpath_enabled(False)  # it has no translation to ONNX
    names = {row.name for row in ROWS}
    if unknown := set(arguments.only or ()) - names:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        if not arguments.only or row.name in arguments.only:
            make(row, arguments.folder, arguments.tiny)


if __name__ == "__main__":
    main()
