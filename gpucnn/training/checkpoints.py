"""Everything a training needs to go on with the same bits, in one file.

The file is safetensors: the tensors of the model and of the optimizer, and in its metadata one JSON
text with the rest (position, schedule, random state, history). It replaces the one before only when
it is whole and on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.core.tensor import Tensor
from gpucnn.serialization import remove_unfinished, write_atomically
from gpucnn.version import __version__

FILE = "checkpoint.safetensors"
_KEY = "gpucnn.checkpoint"
_FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint is damaged, not ours, or of another training."""


@dataclass
class Checkpoint:
    """The state of a training after a batch.

    Attributes:
        model: the model's state_dict.
        optimizer: the optimizer's state_dict.
        scheduler: the scheduler's state_dict, None without one.
        epoch: the epoch in work, counted from 0.
        batch: batches of it that are done.
        batches: batches it has.
        loader_epoch: the loader's number for this epoch.
        random: `gpucnn.random.get_state()`.
        running: sums of loss, correct predictions and images in this epoch, and its seconds.
        history: the epochs done, as dictionaries.
        kinds: the classes of model, optimizer and scheduler.
        run: what the training is, to be compared when it is resumed.
    """

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None
    epoch: int
    batch: int
    batches: int
    loader_epoch: int
    random: tuple[int, int]
    running: Mapping[str, Any]
    history: list[dict[str, Any]]
    kinds: Mapping[str, str]
    run: Mapping[str, Any]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the checkpoint; the one at `path` stays until the new one is complete.

    Raises:
        TypeError: a state holds something that is neither a tensor nor plain data.
        OSError: it cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    tensors = {f"model.{name}": _host(value) for name, value in checkpoint.model.items()}
    states: dict[str, dict[str, Any]] = {}
    for number, state in checkpoint.optimizer["state"].items():
        plain = states[str(number)] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = _host(value)
            else:
                plain[name] = value
    rest = {name: value for name, value in vars(checkpoint).items() if name != "model"}
    rest["optimizer"] = {**checkpoint.optimizer, "state": states}
    try:
        text = json.dumps({"format": _FORMAT, "gpucnn": __version__, **rest})
    except (TypeError, ValueError) as error:
        raise TypeError(f"checkpoint: the training has state that is not data: {error}") from None
    write_atomically(path, to_bytes(tensors, {_KEY: text}))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; all of the file is checked before anything is given back.

    Raises:
        CheckpointError: truncated, damaged, not a checkpoint, or of a newer version.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb"):  # safetensors does not say why a file cannot be opened
        pass
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint: {error}") from None
    if text is None:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of gpucnn")
    try:
        return _decode(json.loads(text), tensors, path)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: the checkpoint's metadata is damaged ({type(error).__name__}: {error})"
        ) from None


def prepare(path: Path) -> None:
    """Make the folder, and remove unfinished files that a killed training left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)


def _decode(rest: dict[str, Any], tensors: dict[str, NDArray[Any]], path: Path) -> Checkpoint:
    if rest.pop("format") != _FORMAT:
        raise CheckpointError(f"{path}: a checkpoint of another version, gpucnn {rest['gpucnn']}")
    del rest["gpucnn"]
    model: dict[str, Any] = {}
    states: dict[int, dict[str, Any]] = {
        int(number): dict(state) for number, state in rest["optimizer"]["state"].items()
    }
    for key, array in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "model":
            model[name] = array
            continue
        number, _, name = name.partition(".")
        states[int(number)][name] = array
    groups = rest["optimizer"]["param_groups"]
    rest["optimizer"] = {"state": states, "param_groups": groups}
    seed, calls = rest.pop("random")
    return Checkpoint(model=model, random=(int(seed), int(calls)), **rest)


def _host(value: Any) -> NDArray[Any]:
    """A C-ordered host array; `ascontiguousarray` would make one axis of none."""
    return np.array(value.detach().numpy() if isinstance(value, Tensor) else value, order="C")
