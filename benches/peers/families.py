"""The classifiers that `export_families.py` exports: a row each, with how it is exported.

Every row has a standard member of its family and a tiny one of the same code: fewer, narrower
layers, which the constructor's arguments give or, where widths are written into the code, `narrow`.
"""

import contextlib
import inspect
from dataclasses import dataclass
from functools import partial
from typing import Callable

import timm
import torch
import torchvision.models as tv
from timm.layers import BatchNormAct2d, GroupNormAct, create_conv2d
from timm.models import (
    byobnet, convnext, deit, mambaout, maxxvit, nfnet, regnet, resnet, resnetv2, swin_transformer,
    vision_transformer,
)
from torch import nn
from torch.nn import functional

CLASSES = 10  # of the tiny models; the others have 1000


@contextlib.contextmanager
def narrow(factor):
    """Divides the channels of the convolutions, linear layers and batch norms made within."""
    def width(channels):
        return channels if channels in (3, CLASSES) else max(1, channels // factor)

    originals = nn.Conv2d.__init__, nn.Linear.__init__, nn.modules.batchnorm._NormBase.__init__
    conv, linear, norm = originals

    def narrow_conv(self, *arguments, **named):
        call = inspect.signature(conv).bind(self, *arguments, **named)
        for name in ("in_channels", "out_channels", "groups"):
            call.arguments[name] = width(call.arguments.get(name, 1))
        conv(*call.args, **call.kwargs)

    def narrow_linear(self, in_features, out_features, *rest, **named):
        linear(self, width(in_features), width(out_features), *rest, **named)

    def narrow_norm(self, num_features, *rest, **named):
        norm(self, width(num_features), *rest, **named)

    nn.Conv2d.__init__, nn.Linear.__init__ = narrow_conv, narrow_linear
    nn.modules.batchnorm._NormBase.__init__ = narrow_norm
    try:
        yield
    finally:
        nn.Conv2d.__init__, nn.Linear.__init__ = conv, linear
        nn.modules.batchnorm._NormBase.__init__ = norm


def narrowed(factor, build, *arguments, **named):
    """What makes `build`'s model, its channels divided by `factor`."""
    def make():
        with narrow(factor):
            return build(*arguments, num_classes=CLASSES, **named)
    return make


class WideBlock(nn.Module):
    """Normalization and ReLU come before each convolution."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        active = functional.relu(self.bn1(x))
        inner = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return inner + (x if self.shortcut is None else self.shortcut(active))


class PreActivationResNet(nn.Module):
    """Wide ResNet of Zagoruyko and Komodakis (2016), the shape of robustness benchmarks' CIFAR
    models: WRN-depth-widen, where `depth` is 6n + 4."""

    def __init__(self, depth, widen, base=16, num_classes=10):
        super().__init__()
        widths = [base, base * widen, 2 * base * widen, 4 * base * widen]
        self.stem = nn.Conv2d(3, base, 3, 1, 1, bias=False)
        blocks = []
        for stage in range(3):
            for block in range((depth - 4) // 6):
                inputs = widths[stage] if block == 0 else widths[stage + 1]
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(WideBlock(inputs, widths[stage + 1], stride))
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, x):
        x = functional.relu(self.bn(self.blocks(self.stem(x))))
        x = functional.avg_pool2d(x, x.shape[-1])
        return self.fc(x.view(x.shape[0], -1))


def tiny_alexnet():
    with narrow(16):
        model = tv.alexnet(num_classes=CLASSES)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier[1] = nn.Linear(16, 256)
    model.classifier[4] = nn.Linear(256, 32)
    model.classifier[6] = nn.Linear(32, CLASSES)
    return model


def tiny_vgg():
    features = tv.vgg.make_layers([8, "M", 12, "M", 16, 16, "M", 24, 24, "M"], batch_norm=True)
    model = tv.VGG(features, num_classes=CLASSES)
    model.avgpool = nn.AdaptiveAvgPool2d(2)  # 7 of 7 in the standard ones at 224
    model.classifier[0] = nn.Linear(96, 32)
    model.classifier[3] = nn.Linear(32, 32)
    model.classifier[6] = nn.Linear(32, CLASSES)
    return model


def tiny_byobnet(kind, stem, **named):
    block = byobnet.ByoBlockCfg
    config = byobnet.ByoModelCfg(
        blocks=(block(type=kind[0], d=2, c=16, s=2, gs=0, br=1.0),
                block(type=kind[1], d=2, c=24, s=2, gs=8, br=0.5),
                block(type=kind[2], d=1, c=32, s=2, gs=0, br=0.25)),
        stem_type=stem, stem_chs=8, **named)
    return byobnet.ByobNet(config, num_classes=CLASSES)


def tiny_nfnet():
    config = nfnet._nfnet_cfg(
        depths=(1, 1, 1, 1), channels=(8, 16, 16, 24), feat_mult=1.0, group_size=8,
        bottle_ratio=0.5, attn_kwargs={"rd_ratio": 0.5, "rd_divisor": 4}, act_layer="silu")
    config.stem_chs = 16
    return nfnet.NormFreeNet(config, num_classes=CLASSES)


def tiny_eca_nfnet():
    config = nfnet._nfnet_cfg(
        depths=(1, 1, 1, 1), channels=(16, 16, 24, 32), feat_mult=1.0, group_size=8,
        bottle_ratio=0.5, attn_layer="eca", attn_kwargs={}, act_layer="gelu")
    config.stem_chs = 16
    return nfnet.NormFreeNet(config, num_classes=CLASSES)


def tiny_maxvit():
    config = maxxvit.MaxxVitCfg(
        embed_dim=(8, 16), depths=(1, 1), block_type=("M", "M"), stem_width=(8, 8),
        conv_cfg=maxxvit.MaxxVitConvCfg(expand_ratio=2.0, padding="same", attn_ratio=0.25),
        transformer_cfg=maxxvit.MaxxVitTransformerCfg(
            dim_head=8, window_size=(4, 4), grid_size=(4, 4), rel_pos_type="bias_tf",
            expand_ratio=2.0))
    return maxxvit.MaxxVit(config, img_size=32, num_classes=CLASSES)


def tiny_maxvit_torchvision():
    return tv.MaxVit(
        input_size=(32, 32), stem_channels=8, partition_size=4, block_channels=[8, 16],
        block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0, expansion_ratio=2,
        mlp_ratio=2, num_classes=CLASSES)


def tiny_swin_torchvision(version):
    parts = {} if version == 1 else {
        "block": tv.swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": tv.swin_transformer.PatchMergingV2,
    }
    return tv.SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=[4, 4],
        mlp_ratio=2.0, num_classes=CLASSES, **parts)


def tiny_densenet():
    return tv.DenseNet(growth_rate=4, block_config=(2, 3, 3, 2), num_init_features=8, bn_size=2,
                       num_classes=CLASSES)


def tiny_mobilenet(size):
    """Both sizes' first, middle and last blocks."""
    settings, last = tv.mobilenetv3._mobilenet_v3_conf(f"mobilenet_v3_{size}")
    settings = settings[:4] + settings[-3:]
    for before, after in zip(settings, settings[1:]):
        after.input_channels = before.out_channels
    with narrow(16):
        return tv.MobileNetV3(settings, last, num_classes=CLASSES)


tiny_vit = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3,
            "mlp_ratio": 2.0, "num_classes": CLASSES}


@dataclass
class Row:
    """A model and its export."""
    name: str
    family: str
    standard: Callable[[], nn.Module]
    tiny: Callable[[], nn.Module]
    opset: int = 17
    exporter: str = "torchscript"  # or "dynamo"
    batch: str = "free"  # or "one"
    weights: str = "inline"  # or "external"
    # "float32"; "float16 weights", which nodes cast to float32; or "float16 graph", whose first and
    # last nodes cast the image and the logits
    precision: str = "float32"
    normalized: bool = False  # (x - mean) / std is the graph's first step
    kept: bool = False  # batch normalization stays a node (TorchScript joins it to the convolution)
    # Where ReLUs make the gradient jump, fewer of them have an input that rounding takes across 0.
    size: int = 224
    tiny_size: int = 32
    images: int = 1  # in the tiny reference; the others have one
    seed: int = 0


def _timm(name, **named):
    return partial(timm.create_model, name, pretrained=False, **named)


ROWS = [
    Row("resnet", "ResNet", tv.resnet18,
        narrowed(20, tv.ResNet, tv.resnet.BasicBlock, [1, 1, 1, 1]), opset=11, size=64,
        batch="one", images=2),
    Row("resnet_bottleneck", "ResNet", _timm("resnet26d"),
        partial(resnet.ResNet, resnet.Bottleneck, (1, 1, 1, 1), channels=(8, 8, 12, 16),
                stem_width=8, stem_type="deep", avg_down=True, num_classes=CLASSES),
        opset=18, size=64, exporter="dynamo", normalized=True),
    Row("resnext", "ResNeXt", tv.resnext50_32x4d,
        partial(resnet.ResNet, resnet.Bottleneck, (1, 1, 1, 1), channels=(8, 12, 16, 20),
                cardinality=4, base_width=16, stem_width=8, num_classes=CLASSES),
        opset=12, images=2, size=64, weights="external"),
    Row("wide_resnet", "Wide ResNet", tv.wide_resnet50_2,
        partial(resnet.ResNet, resnet.Bottleneck, (1, 1, 1, 1), channels=(4, 6, 8, 10),
                base_width=128, stem_width=8, num_classes=CLASSES),
        opset=13, kept=True, normalized=True, size=32),
    Row("preact_wrn", "pre-activation ResNet", partial(PreActivationResNet, 28, 4),
        partial(PreActivationResNet, 10, 2, base=4), opset=14, size=32, normalized=True),
    Row("resnetv2", "pre-activation ResNet", _timm("resnetv2_18"),
        partial(resnetv2.ResNetV2, [1, 1, 1, 1], channels=(8, 12, 16, 20), stem_chs=8,
                norm_layer=BatchNormAct2d, conv_layer=create_conv2d, basic=True,
                bottle_ratio=1.0, num_classes=CLASSES),
        opset=19, size=64, exporter="dynamo", batch="one"),
    Row("resnetv2_bit", "pre-activation ResNet", _timm("resnetv2_50x1_bit"),
        partial(resnetv2.ResNetV2, [1, 1, 1, 1], channels=(16, 16, 24, 24), stem_chs=8,
                stem_type="fixed", norm_layer=partial(GroupNormAct, num_groups=4),
                num_classes=CLASSES),
        opset=15, size=32, normalized=True),
    Row("vgg", "VGG", tv.vgg11_bn, tiny_vgg, opset=11, precision="float16 weights", kept=True,
        normalized=True, images=2),
    Row("alexnet", "AlexNet", tv.alexnet, tiny_alexnet, opset=16, batch="one", tiny_size=64),
    Row("squeezenet", "SqueezeNet", tv.squeezenet1_1, narrowed(8, tv.squeezenet1_1), opset=12,
        tiny_size=40),
    Row("densenet", "DenseNet", tv.densenet121, tiny_densenet, opset=14, size=64, normalized=True),
    Row("googlenet", "GoogLeNet", partial(tv.googlenet, aux_logits=False, init_weights=False,
                                          transform_input=True),
        narrowed(16, tv.googlenet, aux_logits=False, init_weights=False, transform_input=True),
        opset=13, images=2, size=64),
    Row("inception_v3", "Inception v3",
        partial(tv.inception_v3, aux_logits=False, init_weights=False),
        narrowed(32, tv.inception_v3, aux_logits=False, init_weights=False), opset=15, size=96,
        normalized=True, tiny_size=76),
    Row("xception", "Xception", _timm("legacy_xception"),
        narrowed(40, timm.create_model, "legacy_xception"), opset=17, kept=True, size=96,
        tiny_size=64),
    Row("mobilenet_v2", "MobileNet v2", tv.mobilenet_v2,
        narrowed(8, tv.mobilenet_v2, inverted_residual_setting=[
            [1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 2], [6, 96, 1, 1]]),
        opset=11, size=64, normalized=True, tiny_size=48),
    Row("mobilenet_v3", "MobileNet v3", tv.mobilenet_v3_large, partial(tiny_mobilenet, "large"),
        opset=13, size=96, normalized=True),
    Row("mobilenet_v3_small", "MobileNet v3", tv.mobilenet_v3_small,
        partial(tiny_mobilenet, "small"), opset=18, exporter="dynamo", weights="external"),
    Row("mnasnet", "MNASNet", tv.mnasnet0_5, narrowed(24, tv.mnasnet1_0), opset=12, batch="one",
        tiny_size=48),
    Row("shufflenet_v2", "ShuffleNet v2", tv.shufflenet_v2_x0_5,
        partial(tv.ShuffleNetV2, [2, 2, 2], [8, 16, 24, 32, 48], num_classes=CLASSES), opset=16,
        normalized=True, size=64),
    Row("shufflenet_v2_dynamo", "ShuffleNet v2", tv.shufflenet_v2_x1_0,
        partial(tv.ShuffleNetV2, [2, 2, 2], [8, 16, 24, 32, 48], num_classes=CLASSES), opset=20,
        exporter="dynamo", size=64, images=2),
    Row("efficientnet", "EfficientNet", tv.efficientnet_b0, narrowed(16, tv.efficientnet_b0),
        opset=12, precision="float16 weights", kept=True, tiny_size=48),
    Row("efficientnet_same", "EfficientNet", _timm("tf_efficientnet_b0"),
        narrowed(24, timm.create_model, "tf_efficientnet_b0"), opset=17, normalized=True,
        tiny_size=50),
    Row("efficientnet_v2", "EfficientNet v2", _timm("efficientnetv2_rw_t"),
        narrowed(4, timm.create_model, "test_efficientnet"), opset=19, exporter="dynamo"),
    Row("efficientnet_lite", "EfficientNet-Lite", _timm("efficientnet_lite0"),
        narrowed(16, timm.create_model, "efficientnet_lite0"), opset=15, batch="one",
        precision="float16 graph", kept=True, normalized=True, size=64, tiny_size=48, images=2),
    Row("regnet_x", "RegNet", tv.regnet_x_400mf,
        lambda: regnet.RegNet(regnet.RegNetCfg(depth=6, w0=8, wa=6.0, wm=1.8, group_size=4,
                                               stem_width=8), num_classes=CLASSES),
        opset=14, images=2, size=64, batch="one"),
    Row("regnet_y", "RegNet", tv.regnet_y_400mf,
        lambda: regnet.RegNet(regnet.RegNetCfg(depth=6, w0=8, wa=6.0, wm=1.8, group_size=4,
                                               stem_width=8, se_ratio=0.25), num_classes=CLASSES),
        opset=18, size=64, normalized=True),
    Row("repvgg", "RepVGG", _timm("repvgg_a0"),
        partial(tiny_byobnet, ("rep", "rep", "rep"), "rep", num_features=0, stem_pool=""),
        opset=13, size=64),
    Row("byobnet", "ByobNet", _timm("gernet_s"),
        partial(tiny_byobnet, ("basic", "dark", "bottle"), "3x3", downsample="avg", stem_pool="",
                act_layer="silu", attn_layer="se", attn_kwargs={"rd_ratio": 0.25}),
        opset=20, images=2, size=96, exporter="dynamo", weights="external", normalized=True),
    Row("nfnet", "NFNet", _timm("nfnet_l0"), tiny_nfnet, opset=16, images=2),
    Row("nfnet_eca", "NFNet", _timm("eca_nfnet_l0"), tiny_eca_nfnet, opset=18, exporter="dynamo",
        normalized=True),
    Row("convnext", "ConvNeXt", tv.convnext_tiny,
        partial(convnext.ConvNeXt, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24),
                num_classes=CLASSES),
        opset=16, images=2, normalized=True),
    Row("convnext_v2", "ConvNeXt", _timm("convnextv2_atto"),
        partial(convnext.ConvNeXt, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), use_grn=True,
                ls_init_value=None, num_classes=CLASSES),
        opset=20, images=2, exporter="dynamo", batch="one"),
    Row("mambaout", "MambaOut", _timm("mambaout_femto"),
        partial(mambaout.MambaOut, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), kernel_size=5,
                num_classes=CLASSES),
        opset=17, images=2, weights="external"),
    Row("maxvit", "MaxViT", _timm("maxvit_tiny_tf_224"), tiny_maxvit, opset=14, normalized=True,
        images=2),
    Row("maxvit_torchvision", "MaxViT", tv.maxvit_t, tiny_maxvit_torchvision, opset=18, images=2,
        exporter="dynamo"),
    Row("vit", "ViT", _timm("vit_tiny_patch16_224"),
        partial(vision_transformer.VisionTransformer, **tiny_vit), opset=19, exporter="dynamo",
        normalized=True, images=2),
    Row("vit_torchvision", "ViT", tv.vit_b_32,
        partial(tv.VisionTransformer, image_size=32, patch_size=8, num_layers=2, num_heads=4,
                hidden_dim=32, mlp_dim=64, num_classes=CLASSES),
        opset=14, images=2, precision="float16 weights"),
    Row("deit", "DeiT", _timm("deit_tiny_distilled_patch16_224"),
        partial(deit.VisionTransformerDistilled, **tiny_vit), opset=17, images=2,
        precision="float16 graph"),
    Row("swin", "Swin", _timm("swin_tiny_patch4_window7_224"),
        partial(swin_transformer.SwinTransformer, img_size=32, patch_size=2, embed_dim=16,
                depths=(2, 1), num_heads=(2, 4), window_size=4, mlp_ratio=2.0,
                num_classes=CLASSES),
        opset=11, images=2, normalized=True),
    Row("swin_torchvision", "Swin", tv.swin_t, partial(tiny_swin_torchvision, 1), opset=20,
        exporter="dynamo", images=2),
    Row("swin_v2", "Swin v2", tv.swin_v2_t, partial(tiny_swin_torchvision, 2), opset=17, images=2,
        batch="one", normalized=True),
]
for _index, _row in enumerate(ROWS):
    _row.seed = 1000 + _index
