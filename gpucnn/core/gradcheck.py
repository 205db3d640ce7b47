"""Gradients against finite differences.

One random direction per input and one random upstream gradient (Griewank and Walther, "Evaluating
Derivatives", section 3): an error in any element shows, unlike with a plain sum as the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpucnn.core.autograd import no_grad
from gpucnn.core.backward import grad
from gpucnn.core.tensor import Tensor


def gradcheck(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Tensor | Sequence[Any],
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-5,
    seed: int = 0,
) -> bool:
    """Compare the gradients of `function(*inputs)` with central differences in float64.

    Args:
        function: deterministic; returns a Tensor or a tuple of them.
        inputs: arguments; float64 tensors that require grad are checked.
        eps: half the width of the difference.
        atol, rtol: allowed difference of the two directional derivatives.
        seed: of the random directions.

    Returns:
        True.

    Raises:
        ValueError: no input is a float64 tensor that requires grad.
        AssertionError: a gradient is wrong; the text gives both numbers.
    """
    from gpucnn.ops.creation import tensor

    arguments = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [
        i for i, a in enumerate(arguments)
        if isinstance(a, Tensor) and a.requires_grad and a.dtype == np.float64
    ]  # fmt: skip
    if not checked:
        raise ValueError("gradcheck: no input is a float64 tensor that requires grad")
    rng = np.random.default_rng(seed)

    def call(values: list[Any]) -> list[Any]:
        result = function(*values)
        return list(result) if isinstance(result, tuple) else [result]

    # Which outputs have a gradient is settled here: under no_grad none of them seems to.
    recorded = [
        i for i, y in enumerate(call(arguments))
        if isinstance(y, Tensor) and y.requires_grad and y.dtype == np.float64
    ]  # fmt: skip

    def outputs(values: list[Any]) -> list[Tensor]:
        results = call(values)
        return [results[i] for i in recorded]

    upstream: list[np.ndarray[Any, Any]] = [
        rng.standard_normal(y.shape) for y in outputs(arguments)
    ]
    for number in checked:
        source = arguments[number]
        direction = rng.standard_normal(source.shape)
        direction /= max(float(np.linalg.norm(direction)), 1e-30)

        def at(step: float, source: Tensor = source, number: int = number) -> float:
            with no_grad():
                moved = list(arguments)
                values = np.asarray(source) + step * direction  # noqa: B023
                moved[number] = tensor(values, device=source.device)
                ys = outputs(moved)
            return sum(float((np.asarray(y) * u).sum()) for y, u in zip(ys, upstream))

        numeric = (at(eps) - at(-eps)) / (2 * eps)
        analytic = 0.0
        for position, weights in enumerate(upstream):
            y = outputs(arguments)[position]
            given = tensor(weights, device=y.device)
            (dx,) = grad(y, source, given, allow_unused=True)
            analytic += 0.0 if dx is None else float((np.asarray(dx) * direction).sum())
        if not abs(analytic - numeric) <= atol + rtol * abs(numeric):
            raise AssertionError(
                f"gradcheck: input {number} of shape {source.shape}: the gradient along a random "
                f"direction is {analytic:.9g}, finite differences give {numeric:.9g}"
            )
    return True
