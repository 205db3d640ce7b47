"""A row that calls a net: a whole step of training, or inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.benchmarks import reference_net
from gpucnn.benchmarks.row import EAGER, Array, Call, Row, Setup, Variant
from gpucnn.benchmarks.verify import NotTimed
from gpucnn.core.device import CPU, Device
from gpucnn.models.resnet import BasicBlock, Bottleneck
from gpucnn.nn import functional

SEED = 1
LEARNING_RATE = 0.001
MOMENTUM = 0.9

NETS = {
    "lenet5": "LeNet-5",
    "convnet": "CIFAR ConvNet",
    "resnet18_cifar": "ResNet-18",
    "resnet50": "ResNet-50",
    "digits_net": "8 x 8 digits net",
}
_DISTINCT = {"resnet18_cifar": 2, "resnet50": 2}
"""Different images of a batch; the rest repeats them. Loss, batch statistics and gradients of a
mean are those of the different ones: the float64 reference need not see more."""
TOLERANCE = {"resnet18_cifar": 2e-2, "resnet50": 2e-2}
"""In float32. Of so many ReLUs some are so near 0 that rounding switches them: gradients jump."""
_ROUNDED = {"tf32": 0.3, "fp16": 0.3, "bf16": 0.7}
"""Likewise where operands are rounded to 11, 11 and 8 bits, and many more are switched: a rough
check beside that in float32."""
_LAST_NORM = 0.1
"""Weight of the last batch norm of residual blocks. With 1 a deep net at its initial values is
chaotic: PyTorch's gradients in bf16 are then off by more than their own size."""
_PRECISIONS = {"cpu": ("auto",), "cuda": ("auto", "tf32", "bf16")}


@dataclass(frozen=True, kw_only=True)
class NetRow(Row):
    """One call of a net on a batch of random images.

    Attributes:
        net: its name in `gpucnn.models`.
        training: a whole step of SGD with momentum, else the forward pass in evaluation.
        threads: of both sides; 0 for those in force.
    """

    net: str
    training: bool
    threads: int = 0

    def variants(self, setup: Setup) -> Sequence[Variant]:
        chosen = setup.precisions or _PRECISIONS[setup.device.type]
        return [Variant(mode=m, precision=p) for p in chosen for m in ("eager", "captured")]

    def allowed(self, variant: Variant) -> float:
        return max(self.tolerance, _ROUNDED.get(variant.precision, 0.0))

    def model(self, device: Device) -> models.Model:
        """The net with the same initial values each time."""
        gpucnn.manual_seed(SEED)
        model = models.create(self.net)
        with gpucnn.no_grad():
            for module in model.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    weight = module.last_norm.weight
                    assert weight is not None
                    weight.fill_(_LAST_NORM)
        return model.to(device).train(self.training)

    @property
    def distinct(self) -> int:
        return min(self.images, _DISTINCT.get(self.net, self.images))

    def batch(self) -> tuple[Array, Array]:
        """Images (N, C, H, W) and classes (N,)."""
        images, classes = self._distinct_batch()
        places = np.arange(self.images) % len(images)
        return images[places], classes[places]

    def _distinct_batch(self) -> tuple[Array, Array]:
        model = models.create(self.net)
        rng = np.random.default_rng(7)
        if self.images % self.distinct:
            raise ValueError(f"{self.title}: {self.images} is no multiple of {self.distinct}")
        images = rng.standard_normal((self.distinct, *model.input_shape), dtype=np.float32)
        return images, rng.integers(0, model.num_classes, self.distinct)

    def call(self, device: Device, variant: Variant = EAGER) -> Call:
        images, classes = self.batch()
        model = self.model(device)
        random = gpucnn.random.get_state()
        x, target = gpucnn.tensor(images, device=device), gpucnn.tensor(classes, device=device)
        step = _training_step(model) if self.training else model
        arguments = (x, target) if self.training else (x,)

        @contextmanager
        def setting() -> Iterator[None]:
            with gpucnn.precision(variant.precision), using_threads(self.threads):
                with gpucnn.enable_grad() if self.training else gpucnn.no_grad():
                    yield

        if variant.mode == "captured":
            before = {name: t.detach().clone() for name, t in model.state_dict().items()}
            step = gpucnn.capture(step)
            with setting():
                _record(step, arguments)
            model.load_state_dict(before)
        gpucnn.random.set_state(random)

        def results(y: gpucnn.Tensor) -> list[Array]:
            gradients = _gradients(model) if self.training else []
            return [np.asarray(t) for t in (y, *gradients)]

        return Call(lambda: step(*arguments), results, setting)

    def expected(self) -> list[Array]:
        images, classes = self._distinct_batch()
        model = self.model(CPU)
        x = images.astype(np.float64)
        if self.training:
            key = gpucnn.random.get_state()  # where `model` leaves it: dropout begins there
            return reference_net.loss_and_gradients(model, x, classes, key)
        y = reference_net.logits(model, x)
        return [y[np.arange(self.images) % len(y)]]


def _training_step(model: models.Model) -> Callable[..., gpucnn.Tensor]:
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def step(x: gpucnn.Tensor, target: gpucnn.Tensor) -> gpucnn.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _record(step: Any, arguments: tuple[gpucnn.Tensor, ...]) -> None:
    """Call a captured step until the next call is a replay.

    Raises:
        NotTimed: it cannot be captured.
    """
    for _ in range(2):
        step(*arguments)
    if step.reason is not None:
        raise NotTimed(f"not captured: {step.reason}")


def _gradients(model: nn.Module) -> list[gpucnn.Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Within it the engine has that many threads, if it is a number."""
    before = gpucnn.get_num_threads()
    gpucnn.set_num_threads(count or before)
    try:
        yield
    finally:
        gpucnn.set_num_threads(before)
