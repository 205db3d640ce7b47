"""LeNet-5."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.models.registry import Model, Size, fitting


class LeNet5(Model):
    """LeNet-5 with ReLU and max pooling: 61,706 parameters for 1 x 28 x 28 and 10 classes.

    LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998,
    section II.B, whose units are scaled tanh, whose pooling learns, and whose second convolution
    is not fully connected.
    """

    name = "lenet5"

    def __init__(self, in_channels: int = 1, num_classes: int = 10, input_size: Size = 28) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, input_size=input_size)
        _, height, width = self.input_shape
        p, q = fitting(self, (height // 2 - 4) // 2, (width // 2 - 4) // 2, "12 x 12")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * p * q, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )
