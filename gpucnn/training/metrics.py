"""Loss and accuracy, gathered on the device and read seldom.

Reading a number from a GPU waits for everything given to it. The sums therefore stay tensors of
the device; only `read` brings them to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

import gpucnn
from gpucnn.core.device import Device
from gpucnn.core.recording import unrepeatable
from gpucnn.core.tensor import Tensor
from gpucnn.nn import Module
from gpucnn.nn import functional as F
from gpucnn.ops.loss import add_scores

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


class Evaluation(NamedTuple):
    """The mean loss over images, and the share of correct ones (None where that has no meaning)."""

    loss: float
    accuracy: float | None


class Metric(Protocol):
    """What `evaluate` and the Trainer feed: one call a batch."""

    def update(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Take in one batch; nothing may be copied to the host here."""


class RunningMetrics:
    """Sums of loss and of correct predictions over batches.

    The loss of a batch counts once for each of its images, so that a smaller last batch does not
    count for more. Accuracy is kept for outputs (N, C) with integer labels (N,).
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self.count = 0

    def update(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Take in the mean loss () of a batch, its outputs and its labels."""
        unrepeatable("a metric counts images on the host")
        images, classification = len(outputs), _is_classification(outputs, labels)
        if self._loss is None:
            # float64: the sum of a long epoch must not depend on its length.
            self._loss = gpucnn.tensor(0.0, dtype=gpucnn.float64, device=loss.device)
        if classification and self._correct is None:
            self._correct = gpucnn.tensor(0, dtype=gpucnn.int64, device=outputs.device)
        with gpucnn.no_grad():
            if classification and _is_plain(loss, outputs):
                numbers = labels.long()
                add_scores(loss, outputs, numbers, self._loss, self._correct, images=images)
            else:
                self._loss = self._loss + (loss.detach().double() * images).reshape(())
                if classification and self._correct is not None:
                    right = (outputs.detach().argmax(1) == labels).long().sum()
                    self._correct = self._correct + right
        self.count += images

    def read(self) -> Evaluation:
        """The means so far. On a GPU this waits for the device. NaN before the first batch."""
        loss, correct = self.state()
        if not self.count:
            return Evaluation(float("nan"), None)
        return Evaluation(loss / self.count, None if correct is None else correct / self.count)

    def state(self) -> tuple[float, int | None]:
        """The sums of loss and of correct predictions, for a checkpoint (with `count`)."""
        loss = 0.0 if self._loss is None else float(self._loss.item())
        return loss, None if self._correct is None else int(self._correct.item())

    def load_state(self, loss: float, correct: int | None, count: int, device: Device) -> None:
        """Go on from what `state` and `count` gave; the sums keep their bits."""
        self.count = count
        if not count:
            self._loss = self._correct = None
            return
        self._loss = gpucnn.tensor(loss, dtype=gpucnn.float64, device=device)
        self._correct = None
        if correct is not None:
            self._correct = gpucnn.tensor(correct, dtype=gpucnn.int64, device=device)


class ConfusionMatrix:
    """How often each class was taken for each.

    Args:
        classes: the number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._pairs: list[Tensor] = []

    def update(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Take in outputs (N, classes) and labels (N,)."""
        if outputs.ndim != 2 or outputs.shape[1] != self.classes:
            raise ValueError(
                f"ConfusionMatrix: outputs must be (N, {self.classes}), got {outputs.shape}"
            )
        with gpucnn.no_grad():
            self._pairs.append(labels.long() * self.classes + outputs.detach().argmax(1))

    def read(self) -> NDArray[np.int64]:
        """Counts (classes, classes): rows are the labels, columns the predictions."""
        pairs = [np.asarray(pair) for pair in self._pairs]
        flat = np.concatenate(pairs) if pairs else np.empty(0, np.int64)
        counts = np.bincount(flat, minlength=self.classes**2)
        return counts.reshape(self.classes, self.classes).astype(np.int64, copy=False)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with gpucnn.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    model: Module,
    loader: Batches,
    loss: Loss = F.cross_entropy,
    device: str | Device | None = None,
    metrics: Iterable[Metric] = (),
) -> Evaluation:
    """The mean loss and the accuracy of `model` over all batches, in evaluation mode.

    Args:
        loader: batches (images, labels).
        device: where the batches go; by default that of the model's parameters.
        metrics: others to feed, such as a `ConfusionMatrix`.

    Raises:
        ValueError: the loader gave no batch.
    """
    place = device_of(model) if device is None else Device(device)
    running = RunningMetrics()
    with evaluating(model):
        for images, labels in loader:
            labels = labels.to(place)
            outputs = model(images.to(place))
            value = loss(outputs, labels)
            running.update(value, outputs, labels)
            for metric in metrics:
                metric.update(value, outputs, labels)
    if not running.count:
        raise ValueError("evaluate: the loader gave no batch")
    return running.read()


def device_of(model: Module) -> Device:
    """The device of the model's first parameter, else of its first buffer, else the default."""
    tensors: list[Any] = [next(model.parameters(), None), next(model.buffers(), None)]
    return next((t.device for t in tensors if t is not None), None) or gpucnn.default_device()


def _is_classification(outputs: Tensor, labels: Tensor) -> bool:
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 0
        and labels.shape == (len(outputs),)
        and labels.dtype.kind in "iu"
    )


def _is_plain(loss: Tensor, outputs: Tensor) -> bool:
    """Whether one launch can take in both: a float number of the outputs' dtype and device."""
    same = loss.dtype == outputs.dtype and loss.device is outputs.device
    return same and loss.ndim == 0 and loss.dtype.kind == "f"
