"""Gradient clipping, and parameters as one vector; as in torch.nn.utils."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gpucnn.core.autograd import no_grad
from gpucnn.core.tensor import Tensor
from gpucnn.nn.flat import GradientSlot, runs
from gpucnn.ops.creation import tensor
from gpucnn.ops.view import cat


def _with_gradient(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    both = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [parameter for parameter in both if parameter.grad is not None]


def _in_place(gradients: list[Tensor]) -> list[Tensor]:
    """The same gradients, neighbours in flat storage joined to one tensor."""
    slots = [g if isinstance(g, GradientSlot) else None for g in gradients]
    joined = [run.storage.slices(run.start, run.stop)[1] for run in runs(slots, [0] * len(slots))]
    return joined + [g for g, slot in zip(gradients, slots) if slot is None]


def _total_norm(gradients: list[Tensor], norm_type: float) -> Tensor:
    # One gradient at a time: flat storage has gaps, whose content means nothing.
    first = gradients[0].device
    if norm_type == math.inf:
        parts = [g.abs().amax() for g in gradients if g.numel()]
    elif norm_type == 2.0:
        parts = [(g * g).sum() for g in gradients]
    else:
        parts = [g.abs().pow(norm_type).sum() for g in gradients]
    if not parts:
        return tensor(0.0, device=first)
    together = cat([part.to(first).reshape(1) for part in parts])
    if norm_type == math.inf:
        return together.amax()
    total = together.sum()
    return total.sqrt() if norm_type == 2.0 else total.pow(1.0 / norm_type)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients, in place, so that their common norm is at most `max_norm`.

    The factor is min(1, max_norm / (norm + 1e-6)). Nothing is copied to the host unless
    `error_if_nonfinite`.

    Args:
        norm_type: the p of the norm, greater than 0; `math.inf` for the largest absolute value.

    Returns:
        The norm before scaling, a 0-d tensor.

    Raises:
        RuntimeError: the norm is NaN or infinite and `error_if_nonfinite`.
        ValueError: norm_type is not greater than 0.
    """
    norm_type, max_norm = float(norm_type), float(max_norm)
    if not norm_type > 0:
        raise ValueError(f"clip_grad_norm_: norm_type must be greater than 0, got {norm_type}")
    gradients = [p.grad for p in _with_gradient(parameters) if p.grad is not None]
    if not gradients:
        return tensor(0.0)
    with no_grad():
        total = _total_norm(gradients, norm_type)
        if error_if_nonfinite and not math.isfinite(total.item()):
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is "
                "non-finite, so it cannot be clipped. To disable this error and scale the "
                "gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
            )
        factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for gradient in _in_place(gradients):
            gradient.mul_(factor.to(gradient.device).to(gradient.dtype))
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of the gradients, in place, to [-clip_value, clip_value]."""
    limit = float(clip_value)
    gradients = [p.grad for p in _with_gradient(parameters) if p.grad is not None]
    with no_grad():
        for gradient in _in_place(gradients):
            gradient.copy_(gradient.clamp(-limit, limit))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements in one vector, each parameter in the logical order of its elements."""
    return cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write what `parameters_to_vector` returned back into the parameters.

    Raises:
        ValueError: the vector has another length than the parameters together.
    """
    targets = list(parameters)
    wanted = sum(target.numel() for target in targets)
    if vec.shape != (wanted,):
        raise ValueError(
            f"vector_to_parameters: vec must have shape ({wanted},), got {tuple(vec.shape)}"
        )
    start = 0
    with no_grad():
        for target in targets:
            part = vec[start : start + target.numel()]
            target.copy_(part.reshape(target.shape))
            start += target.numel()
