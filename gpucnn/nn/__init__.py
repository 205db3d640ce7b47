"""Layers and nets, with the names and meanings of torch.nn."""

from gpucnn.nn import functional, init, utils
from gpucnn.nn.containers import ModuleDict, ModuleList, Sequential
from gpucnn.nn.layers.activation import LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from gpucnn.nn.layers.conv import Conv2d
from gpucnn.nn.layers.dropout import Dropout
from gpucnn.nn.layers.linear import Flatten, Identity, Linear
from gpucnn.nn.layers.loss import CrossEntropyLoss, MSELoss
from gpucnn.nn.layers.norm import BatchNorm1d, BatchNorm2d
from gpucnn.nn.layers.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from gpucnn.nn.module import Module
from gpucnn.nn.parameter import Parameter
from gpucnn.nn.summary import Summary, summary

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Identity",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Summary",
    "Tanh",
    "functional",
    "init",
    "summary",
    "utils",
]
