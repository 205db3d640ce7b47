"""The base class of learning rate schedules."""

from __future__ import annotations

import warnings
from typing import Any

from gpucnn.optim.optimizer import Optimizer


class LRScheduler:
    """Sets the learning rate of an optimizer's groups, once when made and once for each `step`.

    A subclass writes `get_lr`, most often from the rates in force, so that schedules can be
    chained and the user's own changes are kept.

    Args:
        last_epoch: number of steps already made, for going on without a `state_dict`; -1 begins.

    Attributes:
        base_lrs: the groups' rates at the beginning.
        last_epoch: steps made.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{number}] when resuming "
                    "scheduler with last_epoch >= 0"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._last_lr: list[float] = []
        self._is_initial = True
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The rates for step `last_epoch`, one a group."""
        raise NotImplementedError(f"{type(self).__name__}: write get_lr")

    def get_last_lr(self) -> list[float]:
        """The rates that the last `step` set."""
        return self._last_lr

    def step(self) -> None:
        """Go on to the next rate; call it after the optimizer's step."""
        # An optimizer with a step of its own does not say whether it was called.
        tells = type(self.optimizer).step is Optimizer.step
        if self._step_count == 1 and tells and not self.optimizer._stepped:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first value "
                "of the learning rate schedule is skipped",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self.last_epoch += 1
        for group, rate in zip(self.optimizer.param_groups, self.get_lr()):
            group["lr"] = rate
        self._last_lr = self._rates()

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        vars(self).update(state_dict)
