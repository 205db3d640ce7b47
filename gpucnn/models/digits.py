"""A net for images as small as 8 x 8."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.models.registry import Model, Size, fitting


class DigitsNet(Model):
    """Two 3x3 convolutions, one pool, two linear layers, dropout: 38,282 parameters at 8 x 8.

    LeNet's sequence with padding, since LeNet's 5x5 windows leave nothing of 8 x 8 pixels.
    """

    name = "digits_net"

    def __init__(self, in_channels: int = 1, num_classes: int = 10, input_size: Size = 8) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, input_size=input_size)
        _, height, width = self.input_shape
        p, q = fitting(self, height // 2, width // 2, "2 x 2")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * p * q, 64),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(64, num_classes),
        )
