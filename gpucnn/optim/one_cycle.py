"""The one-cycle schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpucnn.optim.optimizer import Optimizer
from gpucnn.optim.schedule import LRScheduler


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to that start / final_div_factor.

    Momentum (Adam: beta1) goes the opposite way, from max_momentum to base_momentum and back.
    Smith and Topin, "Super-convergence", 2018. `step` is called after each batch.

    Args:
        max_lr: the peak, one number or one a group.
        total_steps: the length; or epochs * steps_per_epoch.
        pct_start: the share of the steps that go up.
        anneal_strategy: "cos" or "linear".
        three_phase: go down to the start as fast as up, and only then further.

    Raises:
        ValueError: a value out of its range, or more steps than `total_steps`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "You must define either total_steps OR (epochs AND steps_per_epoch)"
                )
            total_steps = _count("epochs", epochs) * _count("steps_per_epoch", steps_per_epoch)
        self.total_steps = _count("total_steps", total_steps)
        if isinstance(pct_start, int) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.use_beta1 = "betas" in optimizer.defaults
        if cycle_momentum and not (self.use_beta1 or "momentum" in optimizer.defaults):
            raise ValueError(
                "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
            )
        # Each phase: its last step, rate and momentum at its beginning and at its end.
        up_end = float(pct_start * self.total_steps) - 1
        end = float(self.total_steps - 1)
        up = (up_end, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        if three_phase:
            down_end = float(2 * pct_start * self.total_steps) - 2
            down = (down_end, "max_lr", "initial_lr", "base_momentum", "max_momentum")
            out = (end, "initial_lr", "min_lr", "max_momentum", "max_momentum")
            self.phases = [up, down, out]
        else:
            self.phases = [up, (end, "max_lr", "min_lr", "base_momentum", "max_momentum")]
        if last_epoch == -1:
            _each(optimizer, "max_lr", max_lr)
            for group in optimizer.param_groups:
                group["initial_lr"] = group["max_lr"] / div_factor
                group["min_lr"] = group["initial_lr"] / final_div_factor
            if cycle_momentum:
                _each(optimizer, "max_momentum", max_momentum)
                _each(optimizer, "base_momentum", base_momentum)
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, share: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def get_lr(self) -> list[float]:
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(
                f"Tried to step {step} times. The specified number of total steps is "
                f"{self.total_steps}"
            )
        begin = 0.0
        number = 0
        while number < len(self.phases) - 1 and step > self.phases[number][0]:
            begin = self.phases[number][0]
            number += 1
        end, *names = self.phases[number]
        share = (step - begin) / (end - begin) if end != begin else 1.0
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._between(group[names[0]], group[names[1]], share))
            if self.cycle_momentum:
                momentum = self._between(group[names[2]], group[names[3]], share)
                if self.use_beta1:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return rates


def _count(name: str, value: int) -> int:
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"Expected positive integer {name}, but got {value}")
    return value


def _each(optimizer: Optimizer, name: str, values: float | Sequence[float]) -> None:
    """Set an option of every group: the same number, or one a group."""
    groups = optimizer.param_groups
    each = list(values) if isinstance(values, (list, tuple)) else [values] * len(groups)
    if len(each) != len(groups):
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(each)} "
            f"values, param_groups has {len(groups)}."
        )
    for group, value in zip(groups, each):
        group[name] = value
