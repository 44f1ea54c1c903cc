"""Modules of PyTorch as ONNX files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from common import MODEL
from toy import Toy, colored

import backstitch
from backstitch.export import to_onnx

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("dynamo", [True, False])
def test_both_exporters_write_the_same_classifier(tmp_path, dynamo):
    x, _ = colored(3)
    module = Toy().train()
    to_onnx(module, tmp_path / "toy.onnx", size=32, dynamo=dynamo)
    assert module.training
    found = backstitch.Purifier(tmp_path / "toy.onnx", device="cpu").classify(x)
    wanted = backstitch.Purifier(MODEL, device="cpu").classify(x)
    assert np.allclose(found.logits, wanted.logits, atol=1e-4)


class Normalized(torch.nn.Module):
    """Takes normalized pictures, and returns more than logits."""

    def __init__(self):
        super().__init__()
        self.toy = Toy()

    def forward(self, x):
        return self.toy(x * 0.5 + 0.25), x.mean()


def test_the_sidecar_says_how_pictures_are_normalized(tmp_path):
    x, _ = colored(3)
    to_onnx(Normalized(), tmp_path / "n.onnx", size=(32, 32), mean=[0.25] * 3, std=[0.5] * 3)
    found = backstitch.Purifier(tmp_path / "n.onnx", device="cpu").classify(x)
    wanted = backstitch.Purifier(MODEL, device="cpu").classify(x)
    assert np.allclose(found.logits, wanted.logits, atol=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["input_size"] == [3, 32, 32]


def test_what_is_not_known_is_asked_for(tmp_path):
    with pytest.raises(backstitch.InvalidError, match=r"size=\(height, width\)"):
        to_onnx(Toy(), tmp_path / "toy.onnx")


def test_timm_says_its_own_size(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", pretrained=False, num_classes=10)
    to_onnx(model, tmp_path / "model.onnx")
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["input_size"] == list(model.pretrained_cfg["input_size"])
    assert described["mean"] == list(model.pretrained_cfg["mean"])


def test_torchvision(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=10)
    to_onnx(model, tmp_path / "model.onnx", size=64, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def test_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    model = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    to_onnx(model, tmp_path / "model.onnx", processor=processor)
    assert (tmp_path / "preprocessor_config.json").exists()


def test_a_purifier_of_a_module():
    x, _ = colored(2)
    purifier = backstitch.Purifier.from_torch(Toy(), size=32, device="cpu", preset="cifar", iterations=30)
    wanted = backstitch.Purifier(MODEL, device="cpu").classify(x)
    assert np.allclose(purifier.classify(x).logits, wanted.logits, atol=1e-4)
