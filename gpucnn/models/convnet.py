"""A plain convolutional net for CIFAR-10."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.models.registry import Model, Size, fitting


class ConvNet(Model):
    """Three times (3x3 convolution, ReLU, 2x2 max pool) of 32, 64, 128 filters, then 256 and 10.

    620,362 parameters for 3 x 32 x 32 and 10 classes.
    """

    name = "convnet"

    def __init__(self, in_channels: int = 3, num_classes: int = 10, input_size: Size = 32) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, input_size=input_size)
        _, height, width = self.input_shape
        p, q = fitting(self, height // 8, width // 8, "8 x 8")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(128 * p * q, 256),
            nn.ReLU(),
            nn.Linear(256, num_classes),
        )
