"""The smallest nets that learn something: first steps with MNIST and CIFAR-10."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.models.registry import Model, Size, fitting


class MnistConv8(Model):
    """8 filters 3x3 (26 x 26 x 8), max pool (13 x 13 x 8), one linear layer to the logits."""

    name = "mnist_conv8"

    def __init__(self, in_channels: int = 1, num_classes: int = 10, input_size: Size = 28) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, input_size=input_size)
        _, height, width = self.input_shape
        p, q = fitting(self, (height - 2) // 2, (width - 2) // 2, "4 x 4")
        self.features = nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(8 * p * q, num_classes))


class CifarConv3Conv16(Model):
    """3 filters 5x5, ReLU, max pool, 16 filters 5x5, ReLU, average pool, 120, ReLU, logits."""

    name = "cifar_conv3_conv16"

    def __init__(self, in_channels: int = 3, num_classes: int = 10, input_size: Size = 32) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, input_size=input_size)
        _, height, width = self.input_shape
        p, q = (((size - 4) // 2 - 4) // 2 for size in (height, width))
        p, q = fitting(self, p, q, "16 x 16")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 3, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 16, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * p * q, 120),
            nn.ReLU(),
            nn.Linear(120, num_classes),
        )


class CifarConv12(Model):
    """12 filters 3x3 of the image's size (32 x 32 x 12), ReLU, max pool (16 x 16 x 12), logits."""

    name = "cifar_conv12"

    def __init__(self, in_channels: int = 3, num_classes: int = 10, input_size: Size = 32) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, input_size=input_size)
        _, height, width = self.input_shape
        p, q = fitting(self, height // 2, width // 2, "2 x 2")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 12, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(12 * p * q, num_classes))
