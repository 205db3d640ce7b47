"""CrossEntropyLoss, MSELoss."""

from __future__ import annotations

from gpucnn.core.tensor import Tensor
from gpucnn.nn import functional as F
from gpucnn.nn.module import Module


class _Loss(Module):
    def __init__(self, size_average: bool | None, reduce: bool | None, reduction: str) -> None:
        super().__init__()
        name = type(self).__name__
        if size_average is not None or reduce is not None:
            raise TypeError(
                f"{name}: size_average and reduce only keep PyTorch's order of arguments; "
                "use reduction='mean', 'sum' or 'none'"
            )
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{name}: reduction must be mean, sum or none, got {reduction!r}")
        self.reduction = reduction


class CrossEntropyLoss(_Loss):
    """Cross entropy of logits (N, C, *) and class numbers (N, *).

    Args:
        weight: a weight for each class (C,).
        ignore_index: a class number whose rows count for nothing.
        reduction: "mean" (weighted), "sum" or "none".
        label_smoothing: the share of the target spread evenly over all classes.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class MSELoss(_Loss):
    """The squared difference of input and target, element by element, then reduced."""

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)
