"""Settings that train the data sets of `gpucnn.data` well, one recipe a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpucnn import optim
from gpucnn.data import Compose, Normalize, RandomCrop, RandomHorizontalFlip, Transform
from gpucnn.data.dataset import ArrayDataset
from gpucnn.nn import Module
from gpucnn.optim.lr_scheduler import OneCycleLR

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Recipe:
    """How to train on one data set.

    The learning rate rises to its peak and falls again over the whole training (`OneCycleLR`).

    Attributes:
        model: of `gpucnn.models`.
        rates: the peak of the learning rate for each optimizer.
        momentum: of SGD, in Nesterov's form.
        weight_decay: of the optimizer.
        augment: whether training images are shifted (and mirrored) at random.
        shift: by how many pixels at most.
        mirror: whether a mirrored image is still of its class.
        rise: the share of the training in which the rate rises.
    """

    model: str
    epochs: int
    batch_size: int
    rates: Mapping[str, float]
    momentum: float
    weight_decay: float
    augment: bool
    shift: int
    mirror: bool
    rise: float = 0.3

    def transform(self, dataset: ArrayDataset, augment: bool) -> Transform:
        """What training images go through; without augmentation, test images too."""
        steps: list[Transform] = []
        if augment:
            height, width = dataset.images.shape[2:]
            steps.append(RandomCrop((height, width), self.shift))
            if self.mirror:
                steps.append(RandomHorizontalFlip())
        return Compose([*steps, Normalize(dataset.mean, dataset.std)])


RECIPES = {
    "digits": Recipe(
        model="digits_net",
        epochs=20,
        batch_size=64,
        rates={"sgd": 0.1, "adam": 0.006, "adamw": 0.006},
        momentum=0.9,
        weight_decay=5e-4,
        augment=False,
        shift=1,
        mirror=False,
    ),
    "mnist": Recipe(
        model="lenet5",
        epochs=3,
        batch_size=128,
        rates={"sgd": 0.1, "adam": 0.004, "adamw": 0.004},
        momentum=0.9,
        weight_decay=5e-4,
        augment=False,
        shift=2,
        mirror=False,
    ),
    "fashion-mnist": Recipe(
        model="lenet5",
        epochs=10,
        batch_size=128,
        rates={"sgd": 0.1, "adam": 0.004, "adamw": 0.004},
        momentum=0.9,
        weight_decay=5e-4,
        augment=False,
        shift=2,
        mirror=True,
    ),
    "cifar10": Recipe(
        model="convnet",
        epochs=20,
        batch_size=64,
        rates={"sgd": 0.04, "adam": 0.002, "adamw": 0.002},
        momentum=0.9,
        weight_decay=5e-4,
        augment=True,
        shift=2,
        mirror=True,
    ),
}


def make_optimizer(
    name: str, model: Module, lr: float, momentum: float, weight_decay: float
) -> optim.Optimizer:
    """The optimizer called `name`; `momentum` is beta1 of Adam and AdamW.

    Raises:
        ValueError: an unknown name, or a value out of its range.
    """
    parameters: Any = model.parameters()
    if name == "sgd":
        return optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0)
    if name in OPTIMIZERS:
        kind = optim.Adam if name == "adam" else optim.AdamW
        return kind(parameters, lr, betas=(momentum, 0.999), weight_decay=weight_decay)
    raise ValueError(f"optimizer: {name!r} is not one of {', '.join(OPTIMIZERS)}")


def make_schedule(optimizer: optim.Optimizer, lr: float, steps: int, recipe: Recipe) -> OneCycleLR:
    """One cycle of `steps` updates with its peak at `lr`; momentum stays as it is."""
    return OneCycleLR(optimizer, lr, total_steps=steps, pct_start=recipe.rise, cycle_momentum=False)
