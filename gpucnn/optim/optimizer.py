"""The base class of optimizers: groups of parameters, their state, and the flat step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gpucnn.core.autograd import enable_grad, no_grad
from gpucnn.core.recording import changed, forget_gradient, guard, host_values
from gpucnn.core.tensor import Tensor
from gpucnn.nn.flat import GradientSlot, runs
from gpucnn.optim.group import GroupStorage
from gpucnn.optim.state import load_state, pack_state

Group = dict[str, Any]
State = dict[str, Any]


class Optimizer:
    """Updates tensors from their gradients; structure and meaning of torch.optim.Optimizer.

    At construction the parameters of each group move into flat storage: `p.data` becomes a view of
    one buffer and `p.grad`, after backward, a view of another, so that a step is one primitive
    over the whole group. Memory that was shared with a parameter before stays behind.

    A subclass says what its state is called (`_buffers`), which parameters can be updated together
    (`_key`) and how (`_update`); or it overrides `step`.

    Args:
        params: tensors, (name, tensor) pairs, or dictionaries {"params": ..., option: value}.
        defaults: the options of groups that do not set them.

    Attributes:
        param_groups: the groups, dictionaries of "params" and the options.
        state: for each parameter what the optimizer remembers of it.
    """

    def __init__(self, params: Any, defaults: Mapping[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                f"but got {type(params).__name__}"
            )
        self.defaults = dict(defaults)
        self.state: defaultdict[Tensor, State] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._storages: list[GroupStorage] = []
        self._stepped = False
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, with options of their own.

        Raises:
            TypeError: not a dictionary, or something other than tensors in it.
            ValueError: not a leaf, the same parameter twice, or some with names and some without.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        group = {**self.defaults, **param_group, **_parameters(param_group["params"])}
        seen = {id(p) for other in self.param_groups for p in other["params"]}
        for parameter in group["params"]:
            if id(parameter) in seen:
                raise ValueError("some parameters appear in more than one parameter group")
        if len({id(p) for p in group["params"]}) != len(group["params"]):
            raise ValueError("a parameter appears twice in one parameter group")
        if any(("param_names" in group) != ("param_names" in g) for g in self.param_groups):
            raise ValueError("all optimizer param groups should be with/without names")
        self._storages.append(GroupStorage(group["params"]))
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none:
                    forget_gradient(parameter)
                elif parameter.grad is not None:
                    parameter.grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients anew; called first.

        Returns:
            What `closure` returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group, storage in zip(self.param_groups, self._storages):
                self._step_group(group, storage)
        self._stepped = True
        return loss

    def _step_group(self, group: Group, storage: GroupStorage) -> None:
        parameters = group["params"]
        guard(f"the options of {type(self).__name__}", lambda: _fixed(group))
        guard(f"the state of {type(self).__name__}", lambda: id(self.state))
        if not storage.is_settled(parameters):
            storage.settle(parameters)
        names = self._buffers(group)
        slots: list[GradientSlot | None] = []
        keys: list[Any] = []
        for number, parameter in enumerate(parameters):
            slot = storage.slots[number]
            if parameter.grad is None:
                slots.append(None)
                keys.append(None)
                continue
            if parameter.grad is not slot:
                _copy_into(slot, parameter.grad)
            state = self.state[parameter]
            keys.append(self._key(group, state))
            slots.append(slot)
            for name in names:
                present = state.get(name)
                if present is None:
                    storage.clear(name, number)
                elif present is not storage.views(name)[number]:
                    # Loaded, or from before the parameters moved.
                    state[name] = storage.use(name, number).copy_(present)
        for run in runs(slots, keys):
            values, gradients = run.storage.slices(run.start, run.stop)
            members = parameters[run.first : run.last]
            states = [self.state[parameter] for parameter in members]
            buffers = [storage.slice(name, run) for name in names]
            self._update(group, values, gradients, buffers, states, keys[run.first])
            for number, state in enumerate(states, run.first):
                changed(parameters[number])
                for name in names:
                    if state.get(name) is None:
                        state[name] = storage.use(name, number)

    def _rates(self, values: Tensor, compute: Callable[[], Sequence[float]]) -> Tensor:
        """What changes from step to step, float64 on the parameters' device."""
        return Tensor(host_values(compute, np.float64, values.device), values.device)

    def _buffers(self, group: Group) -> tuple[str, ...]:
        """The names of the state that has the parameter's shape."""
        return ()

    def _key(self, group: Group, state: State) -> Any:
        """What must be equal for neighbours to be updated by one call."""
        return None

    def _update(
        self,
        group: Group,
        values: Tensor,
        gradients: Tensor,
        buffers: list[Tensor],
        states: Iterable[State],
        key: Any,
    ) -> None:
        """Update flat `values` and `buffers` (one for each name) in place."""
        raise NotImplementedError(f"{type(self).__name__}: write _update, or override step")

    def state_dict(self) -> dict[str, Any]:
        """The state by number of parameter, and the groups with numbers for parameters.

        The tensors are those of the optimizer, not copies.
        """
        return pack_state(self.param_groups, self.state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take state and options from a `state_dict`, this engine's or PyTorch's; copies.

        Raises:
            ValueError: other groups, or state that does not fit its parameter.
        """
        groups, state = load_state(self.param_groups, state_dict)
        for group, saved in zip(self.param_groups, groups):
            group.update(saved)
        self.state = state

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def _parameters(params: Any) -> Group:
    """{"params": list} and, when they came with names, {"param_names": list}."""
    if isinstance(params, Tensor):
        params = [params]
    elif isinstance(params, (set, frozenset)):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering "
            "of tensors in sets will change between runs. Please use a list instead."
        )
    entries = list(params)
    names = [entry[0] for entry in entries if isinstance(entry, tuple)]
    if names and len(names) != len(entries):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    tensors = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(
                "optimizer can only optimize Tensors, "
                f"but one of the params is {type(tensor).__name__}"
            )
        if not tensor.is_leaf:
            raise ValueError("can't optimize a non-leaf Tensor")
    return {"params": tensors, "param_names": names} if names else {"params": tensors}


def _fixed(group: Group) -> Group:
    """The options that a captured step holds; learning rates are read anew each time."""
    return {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}


def _copy_into(slot: GradientSlot, gradient: Tensor) -> None:
    """A gradient that the user assigned, brought to where the step reads."""
    if gradient.shape != slot.shape or gradient.device is not slot.device:
        raise RuntimeError(
            f"step: grad of shape {gradient.shape} on {gradient.device} for a parameter of shape "
            f"{slot.shape} on {slot.device}"
        )
    slot.copy_(gradient)
