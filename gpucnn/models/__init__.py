"""Nets by name: `create("lenet5")`, `names()`."""

from gpucnn.models.convnet import ConvNet
from gpucnn.models.digits import DigitsNet
from gpucnn.models.lenet import LeNet5
from gpucnn.models.registry import Model, create, names
from gpucnn.models.resnet import ResNet18, ResNet18Cifar, ResNet34, ResNet50
from gpucnn.models.small import CifarConv3Conv16, CifarConv12, MnistConv8

__all__ = [
    "CifarConv12",
    "CifarConv3Conv16",
    "ConvNet",
    "DigitsNet",
    "LeNet5",
    "MnistConv8",
    "Model",
    "ResNet18",
    "ResNet18Cifar",
    "ResNet34",
    "ResNet50",
    "create",
    "names",
]
