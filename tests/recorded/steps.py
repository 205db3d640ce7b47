"""Training steps that are run eagerly and captured, from the same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import gpucnn
from gpucnn import nn, optim
from gpucnn.nn import functional as F


class Block(nn.Module):
    """A residual block as ResNet has it, with a projection."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down: nn.Module | None = None
        if stride > 1 or channels != out:
            self.down = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.down is None else self.down(x)))


def plain_net() -> nn.Module:
    """Convolutions, pools, dropout, linear layers: H != W."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(5 * 2 * 1, 7), nn.ReLU(), nn.Linear(7, 4),
    )  # fmt: skip


def residual_net() -> nn.Module:
    """A stem, two residual blocks, global pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        Block(4, 4), Block(4, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def make_optimizer(name: str, model: nn.Module) -> optim.Optimizer:
    if name == "sgd":
        return optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3, nesterov=True)
    if name == "dampened":
        return optim.SGD(model.parameters(), 0.05, 0.9, dampening=0.3)
    return {"adam": optim.Adam, "adamw": optim.AdamW}[name](model.parameters(), 0.01)


class Run:
    """A net, its optimizer and a step; `capture` gives the keyword arguments of gpucnn.capture."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        device: str = "cpu",
        optimizer: str = "sgd",
        capture: dict[str, Any] | None = None,
    ) -> None:
        gpucnn.manual_seed(7)
        self.device, self.done = device, 0
        self.model = make().to(device)
        self.optimizer = make_optimizer(optimizer, self.model)
        self.scheduler = optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)
        self.step = self._step if capture is None else gpucnn.capture(self._step, **capture)

    def _step(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def go(self, steps: int, batch: int = 3) -> list[float]:
        """The losses of some steps, with batches and a schedule of their own."""
        rng = np.random.default_rng(self.done)
        gpucnn.manual_seed(self.done)
        self.done += steps
        losses = []
        for _ in range(steps):
            x = rng.standard_normal((batch, 1, 12, 9)).astype(np.float32)
            y = rng.integers(0, 4, batch)
            loss = self.step(
                gpucnn.tensor(x, device=self.device), gpucnn.tensor(y, device=self.device)
            )
            losses.append(loss.item())
            self.scheduler.step()
        return losses

    def state(self) -> dict[str, bytes]:
        """Everything that the steps leave: parameters, buffers, optimizer state."""
        found = {name: np.asarray(t).tobytes() for name, t in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                found[f"{number} {name}"] = np.asarray(value).tobytes()
        return found
