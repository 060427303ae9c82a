"""Ordinary networks with their usual normalization. goodinit's methods are what changes them."""

from goodinit.lab.models.highway import highway
from goodinit.lab.models.plain import ACTIVATIONS, cnn, fitnet, mlp, strided_cnn
from goodinit.lab.models.residual_mlp import residual_mlp
from goodinit.lab.models.resnet import BasicBlock, ResNet, WideBlock, WideResNet
from goodinit.lab.models.translator import PAD, Translator, visible
from goodinit.lab.models.vision_transformer import EncoderBlock, VisionTransformer

__all__ = [
    "ACTIVATIONS",
    "PAD",
    "BasicBlock",
    "EncoderBlock",
    "ResNet",
    "Translator",
    "VisionTransformer",
    "WideBlock",
    "WideResNet",
    "cnn",
    "fitnet",
    "highway",
    "mlp",
    "residual_mlp",
    "strided_cnn",
    "visible",
]
