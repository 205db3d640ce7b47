"""Residual nets: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016.

Table 1 of the paper, for images 3 x 224 x 224; a stage of n blocks halves the image in its first
(conv2_x does not: the max pool has), and its blocks are 3x3, 3x3 or 1x1, 3x3, 1x1:

    stage     output    18            34            50
    conv1     112 x 112 7x7, 64, stride 2
    conv2_x    56 x 56  3x3 max pool, stride 2
                        [64] x 2      [64] x 3      [64, 64, 256] x 3
    conv3_x    28 x 28  [128] x 2     [128] x 4     [128, 128, 512] x 4
    conv4_x    14 x 14  [256] x 2     [256] x 6     [256, 256, 1024] x 6
    conv5_x     7 x 7   [512] x 2     [512] x 3     [512, 512, 2048] x 3
                1 x 1   average pool, linear

Names, shapes and sizes of the parameters are those of torchvision, whose files load with
`load_state_dict`.
"""

from __future__ import annotations

from typing import ClassVar

from gpucnn import nn
from gpucnn.core.tensor import Tensor
from gpucnn.models.registry import Model, Size


def _conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """Without a bias: the batch norm that follows has one."""
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)


def _conv1x1(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 1, stride, bias=False)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """None for the identity; where the shape changes, option B of section 3.3."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(_conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))


class BasicBlock(nn.Module):
    """y = ReLU(F(x) + x); F: 3x3 convolution, ReLU, 3x3 convolution, each with batch norm.

    Figure 5, left.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, input: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(input)))
        x = self.bn2(self.conv2(x))
        y: Tensor = self.relu(x + (input if self.downsample is None else self.downsample(input)))
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """y = ReLU(F(x) + x); F: 1x1, 3x3, and 1x1 up to four times the width, each with batch norm.

    Figure 5, right. The 3x3 convolution has the stride, as in torchvision ("ResNet v1.5"); in the
    paper it is the first 1x1.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        wide = channels * self.expansion
        self.conv1 = _conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv1x1(channels, wide)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, wide, stride)

    def forward(self, input: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(input)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        y: Tensor = self.relu(x + (input if self.downsample is None else self.downsample(input)))
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


class ResNet(Model):
    """What all residual nets share; a subclass is a column of the table.

    Args:
        zero_init_residual: begin with 0 as the weight of each block's last batch norm, so that
            every block begins as the identity (Goyal et al., "Accurate, large minibatch SGD",
            2017, section 5.1).
    """

    block: ClassVar[type[BasicBlock | Bottleneck]]
    depths: ClassVar[tuple[int, int, int, int]]

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        input_size: Size = 224,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            input_size=input_size,
            zero_init_residual=zero_init_residual,
        )
        self.conv1 = self.stem(in_channels)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = self.stem_pool()
        two, three, four, five = self.depths
        wide = self.block.expansion
        self.layer1 = self._stage(64, 64, two, stride=1)
        self.layer2 = self._stage(64 * wide, 128, three, stride=2)
        self.layer3 = self._stage(128 * wide, 256, four, stride=2)
        self.layer4 = self._stage(256 * wide, 512, five, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * wide, num_classes)
        self._reset_parameters(zero_init_residual)

    def stem(self, in_channels: int) -> nn.Conv2d:
        """conv1 of the table."""
        return nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)

    def stem_pool(self) -> nn.Module:
        """The max pool of the table."""
        return nn.MaxPool2d(3, stride=2, padding=1)

    def _stage(self, in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
        first = self.block(in_channels, channels, stride)
        wide = channels * self.block.expansion
        return nn.Sequential(first, *(self.block(wide, channels, 1) for _ in range(depth - 1)))

    def _reset_parameters(self, zero_init_residual: bool) -> None:
        """He initialisation of the filters; the linear layer keeps PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                weight = module.last_norm.weight
                assert weight is not None
                nn.init.zeros_(weight)

    def forward(self, input: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class ResNet18(ResNet):
    """The 18-layer net: 11,689,512 parameters for 1000 classes."""

    name = "resnet18"
    block, depths = BasicBlock, (2, 2, 2, 2)


class ResNet34(ResNet):
    """The 34-layer net: 21,797,672 parameters for 1000 classes."""

    name = "resnet34"
    block, depths = BasicBlock, (3, 4, 6, 3)


class ResNet50(ResNet):
    """The 50-layer net: 25,557,032 parameters for 1000 classes."""

    name = "resnet50"
    block, depths = Bottleneck, (3, 4, 6, 3)


class ResNet18Cifar(ResNet18):
    """The 18-layer net for images of 32 x 32: 11,173,962 parameters for 10 classes.

    A 3x3 stem without stride or pool leaves the stages 32, 16, 8 and 4 pixels. (The nets of section
    4.2 of the paper are narrower: 16, 32 and 64 filters.)
    """

    name = "resnet18_cifar"

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        input_size: Size = 32,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(in_channels, num_classes, input_size, zero_init_residual)

    def stem(self, in_channels: int) -> nn.Conv2d:
        return _conv3x3(in_channels, 64)

    def stem_pool(self) -> nn.Module:
        return nn.Identity()
