"""state_dict and load_state_dict: a module's numbers by dotted name, strict as in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpucnn.core.autograd import no_grad
from gpucnn.core.tensor import Tensor
from gpucnn.ops.creation import from_numpy

if TYPE_CHECKING:
    from gpucnn.nn.module import Module


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find, and what it had no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


def collect(
    module: Module, destination: dict[str, Any], prefix: str, keep_vars: bool
) -> dict[str, Any]:
    """Add the tensors of `module` and of all below it to `destination`, depth first.

    A tensor that two names share appears under both, as in PyTorch.
    """
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None and name not in module._non_persistent_buffers:
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
    for name, child in module._modules.items():
        if child is not None:
            collect(child, destination, f"{prefix}{name}.", keep_vars)
    return destination


def load(module: Module, state_dict: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Check `state_dict` against the module as a whole, then copy."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    expected = collect(module, {}, "", keep_vars=True)
    optional = {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules(remove_duplicate=False)
        for name in getattr(part, "_optional_state", ())
    }
    missing = [key for key in expected if key not in state_dict and key not in optional]
    unexpected = [key for key in state_dict if key not in expected]
    problems = []
    if strict and missing:
        problems.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if strict and unexpected:
        problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    values = {}
    for key, tensor in expected.items():
        if key not in state_dict:
            continue
        try:
            value = _as_tensor(state_dict[key])
        except (TypeError, ValueError) as error:
            problems.append(f"{key}: cannot be read as a tensor ({error}).")
            continue
        if value.shape != tensor.shape:
            problems.append(
                f"size mismatch for {key}: copying a param with shape {value.shape} from "
                f"checkpoint, the shape in current model is {tensor.shape}."
            )
            continue
        values[key] = value
    if problems:
        lines = "\n\t".join(problems)
        raise RuntimeError(f"Error(s) in loading state_dict for {module._get_name()}:\n\t{lines}")
    with no_grad():
        for key, value in values.items():
            target = expected[key]
            target.copy_(value.to(target.device))
    return IncompatibleKeys(missing, unexpected)


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"dtype {array.dtype}")
    return from_numpy(array)


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
