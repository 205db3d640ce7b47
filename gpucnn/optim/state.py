"""An optimizer's state_dict: the structure of PyTorch's, parameters as numbers."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpucnn.core.tensor import Tensor
from gpucnn.ops.creation import tensor

Group = dict[str, Any]
States = defaultdict[Tensor, dict[str, Any]]


def pack_state(groups: list[Group], state: Mapping[Tensor, dict[str, Any]]) -> dict[str, Any]:
    """{"state": {number: ...}, "param_groups": [...]} with parameters numbered through."""
    numbers: dict[int, int] = {}
    packed = []
    for group in groups:
        for parameter in group["params"]:
            numbers[id(parameter)] = len(numbers)
        options = {key: value for key, value in group.items() if key != "params"}
        packed.append({**options, "params": [numbers[id(p)] for p in group["params"]]})
    states = {
        numbers[id(p)]: dict(values) for p, values in state.items() if values and id(p) in numbers
    }
    return {"state": states, "param_groups": packed}


def load_state(groups: list[Group], state_dict: Mapping[str, Any]) -> tuple[list[Group], States]:
    """The options for each group, and the state by parameter, copied from a `state_dict`."""
    try:
        saved_groups, saved_state = state_dict["param_groups"], state_dict["state"]
    except (KeyError, TypeError):
        raise ValueError("load_state_dict: expected the keys 'state' and 'param_groups'") from None
    if len(groups) != len(saved_groups):
        raise ValueError("loaded state dict has a different number of parameter groups")
    if any(len(a["params"]) != len(b["params"]) for a, b in zip(groups, saved_groups)):
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of "
            "optimizer's group"
        )
    parameters = [p for group in groups for p in group["params"]]
    numbers = [number for group in saved_groups for number in group["params"]]
    by_number = dict(zip(numbers, parameters))
    states: States = defaultdict(dict)
    for number, values in saved_state.items():
        if number not in by_number:
            raise ValueError(f"loaded state dict has state for an unknown parameter {number}")
        parameter = by_number[number]
        states[parameter] = {
            name: _load_value(parameter, name, number, value) for name, value in values.items()
        }
    options = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in saved_groups
    ]
    return options, states


def _load_value(parameter: Tensor, name: str, number: Any, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if not isinstance(value, Tensor):
        value = np.asarray(value)
    if name == "step":  # PyTorch keeps the count in a tensor
        return int(value.item())
    if value.shape != parameter.shape:
        raise ValueError(
            f"loaded state dict has {name} of shape {tuple(value.shape)} for parameter {number} "
            f"of shape {parameter.shape}"
        )
    return tensor(value, dtype=parameter.dtype, device=parameter.device)
