"""The suite `train`: whole steps of training, and inference, through the public API."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.benchmarks import reference_net
from gpucnn.benchmarks.row import Array, Call, Row
from gpucnn.core.device import CPU, Device
from gpucnn.nn import functional
from gpucnn.nn.summary import summary

SEED = 1
LEARNING_RATE = 0.001
MOMENTUM = 0.9

NETS = {"lenet5": "LeNet-5", "convnet": "CIFAR ConvNet", "digits_net": "8 x 8 digits net"}


@dataclass(frozen=True, kw_only=True)
class NetRow(Row):
    """One call of a net on a batch of random images.

    Attributes:
        net: its name in `gpucnn.models`.
        training: a whole step of SGD with momentum, else the forward pass in evaluation.
    """

    net: str
    training: bool

    def model(self, device: Device) -> models.Model:
        """The net with the same initial values each time."""
        gpucnn.manual_seed(SEED)
        return models.create(self.net).to(device).train(self.training)

    def batch(self) -> tuple[Array, Array]:
        """Images (N, C, H, W) and classes (N,)."""
        model = models.create(self.net)
        rng = np.random.default_rng(7)
        images = rng.standard_normal((self.images, *model.input_shape), dtype=np.float32)
        return images, rng.integers(0, model.num_classes, self.images)

    def call(self, device: Device) -> Call:
        images, classes = self.batch()
        model = self.model(device)
        x, target = gpucnn.tensor(images, device=device), gpucnn.tensor(classes, device=device)
        if not self.training:

            def infer() -> gpucnn.Tensor:
                with gpucnn.no_grad():
                    y: gpucnn.Tensor = model(x)
                return y

            return Call(infer, lambda y: [np.asarray(y)])
        parameters = list(model.parameters())
        optimizer = optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)

        def step() -> gpucnn.Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), target)
            loss.backward()
            optimizer.step()
            return loss

        return Call(step, lambda loss: [np.asarray(t) for t in (loss, *_gradients(parameters))])

    def expected(self) -> list[Array]:
        images, classes = self.batch()
        model = self.model(CPU)
        x = images.astype(np.float64)
        if not self.training:
            return [reference_net.logits(model, x)]
        key = gpucnn.random.get_state()  # where `model` leaves it: dropout begins there
        return reference_net.loss_and_gradients(model, x, classes, key)


def _gradients(parameters: list[nn.Parameter]) -> list[gpucnn.Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def rows() -> list[Row]:
    """Training at batch 128, inference at 1, 16 and 128; and a net so small that Python counts."""
    found: list[Row] = []
    for net in ("lenet5", "convnet"):
        found.append(_row(net, 128, training=True))
        found += [_row(net, batch, training=False) for batch in (1, 16, 128)]
    found += [_row("digits_net", 16, training=True), _row("digits_net", 16, training=False)]
    return found


def _row(net: str, batch: int, training: bool) -> NetRow:
    model = models.create(net)
    shape = model.input_shape
    counted = summary(model.to(CPU), (1, *shape))
    flops = batch * counted.flops
    if training:
        # Forward, and backward for weights and inputs, but not for the images themselves.
        flops = 3 * flops - batch * counted.layers[0].flops
    return NetRow(
        suite="train",
        group=f"{NETS[net]}, images {' x '.join(map(str, shape))}",
        name=f"{'training step' if training else 'inference'}, batch {batch}",
        flops=flops,
        images=batch,
        # Sums of thousands of float32 terms, through several layers.
        tolerance=5e-4,
        cold=False,
        net=net,
        training=training,
    )
