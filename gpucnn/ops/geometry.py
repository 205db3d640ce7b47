"""All size arithmetic of convolution and pooling, all their shape errors, and their work.

N C H W is the input, K filters of R x S, P x Q the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

Pair = int | Sequence[int]


def pair(call: str, name: str, value: Any, minimum: int) -> tuple[int, int]:
    """One integer for both directions, or (vertical, horizontal).

    Raises:
        TypeError: neither an integer nor two of them.
        ValueError: one is below `minimum`.
    """
    both = (value, value) if isinstance(value, (int, np.integer)) else value
    if (
        not isinstance(both, (tuple, list))
        or len(both) not in (1, 2)
        or not all(isinstance(v, (int, np.integer)) for v in both)
    ):
        raise TypeError(f"{call}: {name} must be an integer or a pair of integers, got {value!r}")
    result = int(both[0]), int(both[-1])
    if min(result) < minimum:
        raise ValueError(f"{call}: {name} must be at least {minimum}, got {value!r}")
    return result


def _hash_once(geometry: Any) -> int:
    """The hash of the fields, computed when first asked for: geometries are keys of many caches."""
    kept: dict[str, Any] = vars(geometry)
    found: int | None = kept.get("_hash")
    if found is None:
        found = kept["_hash"] = hash(tuple(_fields_of(geometry).values()))
    return found


def _fields_of(geometry: Any) -> dict[str, Any]:
    """What is pickled: the hash of None, and so that of a geometry, is a process's own."""
    return {f.name: getattr(geometry, f.name) for f in fields(geometry)}


@dataclass(frozen=True)
class Conv2dGeometry:
    """Sizes of one 2-D convolution: x (N, C, H, W), w (K, C/groups, R, S), y (N, K, P, Q)."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_left: int
    pad_bottom: int
    pad_right: int
    dilation_h: int
    dilation_w: int
    groups: int

    __hash__ = _hash_once
    __getstate__ = _fields_of

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.h, self.w

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.k, self.c // self.groups, self.r, self.s

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.k, self.p, self.q

    @property
    def flops(self) -> int:
        """Floating-point operations of one direction; a multiply-add counts as two."""
        return 2 * self.n * self.k * self.p * self.q * (self.c // self.groups) * self.r * self.s

    @property
    def elements(self) -> int:
        """Elements of input, weights and output together: the least that must move."""
        x = self.n * self.c * self.h * self.w
        return (
            x
            + self.k * (self.c // self.groups) * self.r * self.s
            + self.n * self.k * self.p * self.q
        )

    @classmethod
    def of(
        cls,
        call: str,
        x: tuple[int, ...],
        w: tuple[int, ...],
        stride: Pair,
        padding: Pair | str,
        dilation: Pair,
        groups: int,
    ) -> Conv2dGeometry:
        """The geometry of input shape x and weight shape w.

        Raises:
            ValueError: shapes and attributes do not go together.
            TypeError: an attribute is not an integer or a pair.
        """
        make = _conv2d if _are_exact(stride, padding, dilation, groups) else _conv2d.__wrapped__
        return make(call, x, w, stride, padding, dilation, groups)


def _are_exact(*values: Any) -> bool:
    """Whether equal values are the same to `of`: 1.0 and True equal 1, and are refused or not."""
    for value in values:
        if type(value) is tuple:
            for part in value:
                if type(part) is not int:
                    return False
        elif type(value) not in _EXACT:
            return False
    return True


_EXACT = (int, str, bool, type(None))


@lru_cache(maxsize=1024, typed=True)
def _conv2d(
    call: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Pair,
    padding: Pair | str,
    dilation: Pair,
    groups: int,
) -> Conv2dGeometry:
    what = f"(input {x}, weight {w}, groups {groups})"
    if len(x) != 4 or len(w) != 4:
        raise ValueError(
            f"{call}: input must be (N, C, H, W) and weight (K, C / groups, R, S), got {what}"
        )
    (n, c, h, width), (k, c_group, r, s) = x, w
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{call}: groups must be a positive integer, got {groups!r}")
    if c != c_group * groups:
        raise ValueError(
            f"{call}: input has {c} channels but weight expects {c_group * groups} {what}"
        )
    if k % groups:
        raise ValueError(f"{call}: weight has {k} filters, not a multiple of groups {what}")
    if k < 1 or r < 1 or s < 1:
        raise ValueError(f"{call}: weight has no elements {what}")
    if n and c and not (h and width):
        raise ValueError(f"{call}: input has no elements, but is no empty batch {what}")
    stride_h, stride_w = pair(call, "stride", stride, 1)
    dilation_h, dilation_w = pair(call, "dilation", dilation, 1)
    extent_h, extent_w = dilation_h * (r - 1) + 1, dilation_w * (s - 1) + 1
    if isinstance(padding, str):
        pads = _named_padding(call, padding, (stride_h, stride_w), (extent_h, extent_w))
    else:
        vertical, horizontal = pair(call, "padding", padding, 0)
        pads = vertical, horizontal, vertical, horizontal
    top, left, bottom, right = pads
    padded = h + top + bottom, width + left + right
    if padded[0] < extent_h or padded[1] < extent_w:
        raise ValueError(
            f"{call}: kernel covers {extent_h} x {extent_w} but the padded input is only "
            f"{padded[0]} x {padded[1]} {what}"
        )
    p = (padded[0] - extent_h) // stride_h + 1
    q = (padded[1] - extent_w) // stride_w + 1
    return Conv2dGeometry(
        n, c, h, width, k, r, s, p, q, stride_h, stride_w,
        top, left, bottom, right, dilation_h, dilation_w, groups,
    )  # fmt: skip


def _named_padding(
    call: str, name: str, stride: tuple[int, int], extent: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of "valid" and "same"; an odd total puts more at the end."""
    if name == "valid":
        return 0, 0, 0, 0
    if name != "same":
        raise ValueError(f"{call}: padding must be numbers, 'same' or 'valid', got {name!r}")
    if stride != (1, 1):
        raise ValueError(f"{call}: padding='same' needs stride 1, got {stride}")
    vertical, horizontal = extent[0] - 1, extent[1] - 1
    top, left = vertical // 2, horizontal // 2
    return top, left, vertical - top, horizontal - left


@dataclass(frozen=True)
class Pool2dGeometry:
    """Sizes of one 2-D pooling: x (N, C, H, W), windows of R x S, y (N, C, P, Q)."""

    n: int
    c: int
    h: int
    w: int
    r: int
    s: int
    p: int
    q: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int | None

    __hash__ = _hash_once
    __getstate__ = _fields_of

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.h, self.w

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.p, self.q

    @property
    def argmax_dtype(self) -> np.dtype[Any]:
        """What holds a position within a window."""
        return np.dtype(np.uint8 if self.r * self.s <= 256 else np.int32)

    @classmethod
    def of(
        cls,
        call: str,
        x: tuple[int, ...],
        kernel_size: Pair,
        stride: Pair | None,
        padding: Pair,
        dilation: Pair = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Pool2dGeometry:
        """The geometry of input shape x, with PyTorch's output sizes.

        Raises:
            ValueError: shapes and attributes do not go together.
            TypeError: an attribute is not an integer or a pair.
        """
        given = (kernel_size, stride, padding, dilation, ceil_mode, count_include_pad)
        make = _pool2d if _are_exact(*given, divisor_override) else _pool2d.__wrapped__
        return make(call, x, *given, divisor_override)


@lru_cache(maxsize=1024, typed=True)
def _pool2d(
    call: str,
    x: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair | None,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Pool2dGeometry:
    if len(x) != 4:
        raise ValueError(f"{call}: input must be (N, C, H, W) or (C, H, W), got {x}")
    n, c, h, width = x
    if not (c and h and width):
        raise ValueError(f"{call}: only the batch may be empty, got input {x}")
    r, s = pair(call, "kernel_size", kernel_size, 1)
    apart = stride is None or (isinstance(stride, (tuple, list)) and not stride)
    stride_h, stride_w = (r, s) if apart else pair(call, "stride", stride, 1)
    pad_h, pad_w = pair(call, "padding", padding, 0)
    dilation_h, dilation_w = pair(call, "dilation", dilation, 1)
    extent_h, extent_w = dilation_h * (r - 1) + 1, dilation_w * (s - 1) + 1
    if pad_h > r // 2 or pad_w > s // 2:
        raise ValueError(
            f"{call}: padding must be at most half of the kernel, got padding "
            f"{(pad_h, pad_w)} for a kernel of {(r, s)}"
        )
    if divisor_override is not None and divisor_override == 0:
        raise ValueError(f"{call}: divisor_override must not be 0")
    p = _pooled(h, extent_h, pad_h, stride_h, ceil_mode)
    q = _pooled(width, extent_w, pad_w, stride_w, ceil_mode)
    if p < 1 or q < 1:
        raise ValueError(
            f"{call}: a window of {extent_h} x {extent_w} does not fit the input {x} "
            f"with padding {(pad_h, pad_w)}"
        )
    return Pool2dGeometry(
        n, c, h, width, r, s, p, q, stride_h, stride_w, pad_h, pad_w,
        dilation_h, dilation_w, bool(ceil_mode), bool(count_include_pad), divisor_override,
    )  # fmt: skip


def _pooled(size: int, extent: int, pad: int, stride: int, ceil_mode: bool) -> int:
    """Windows along one direction; with ceil_mode the last must begin inside input or left pad."""
    span = size + 2 * pad - extent
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count
