"""What instructions compute, in Python's exact integers and fractions: the other opinion.

`reference(opcode)` gives a function of Python numbers. Floats are exact values; a result that must
be rounded is a Fraction until `rounded` brings it to the format. Nothing here uses NumPy.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

FORMATS = {
    "f64": (53, -1022, 1023),
    "f32": (24, -126, 127),
    "f16": (11, -14, 15),
    "bf16": (8, -126, 127),
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "lo": lambda a, b: a < b, "ls": lambda a, b: a <= b, "hi": lambda a, b: a > b,
    "hs": lambda a, b: a >= b,
}  # fmt: skip


def width(kind: str) -> int:
    return int("".join(c for c in kind if c.isdigit()))


def wrap(value: int, kind: str) -> int:
    """Into the range of an integer type."""
    n = width(kind)
    value %= 1 << n
    return value - (1 << n) if kind[0] == "s" and value >> (n - 1) else value


def limits(kind: str) -> tuple[int, int]:
    n = width(kind)
    return (-(1 << n - 1), (1 << n - 1) - 1) if kind[0] == "s" else (0, (1 << n) - 1)


def clamp(value: int, kind: str) -> int:
    low, high = limits(kind)
    return min(max(value, low), high)


def rounded(x: Fraction | float, kind: str, mode: str = "rn") -> float:
    """The value of the format nearest to x in a direction; infinite and NaN pass."""
    if isinstance(x, float):
        if not math.isfinite(x) or x == 0:
            return x
        x = Fraction(x)
    if x == 0:
        return 0.0
    p, low, high = FORMATS[kind]
    size = abs(x)
    e = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** e > size:
        e -= 1
    unit = Fraction(2) ** (max(e, low) - p + 1)
    n = math.floor(x / unit)
    rest = x / unit - n
    if rest:
        if mode == "rn":
            n += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and n % 2)
        elif mode == "rna":
            n += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and x > 0)
        else:
            n += mode == "rp" or (mode == "rz" and x < 0)
    largest = (2 - Fraction(2) ** (1 - p)) * Fraction(2) ** high
    if abs(n * unit) > largest:
        inward = mode == "rz" or (mode == "rm" and x > 0) or (mode == "rp" and x < 0)
        return (1 if x > 0 else -1) * (float(largest) if inward else math.inf)
    return math.copysign(float(abs(n * unit)), x)


def flush(x: float, kind: str = "f32") -> float:
    return math.copysign(0.0, x) if abs(x) < 2.0 ** FORMATS[kind][1] and math.isfinite(x) else x


def exact(function: str, *values: float) -> Fraction | float:
    """A float operation before rounding: a Fraction, or a float where something is special."""
    special = not all(math.isfinite(v) for v in values)
    if function in ("add", "sub", "mul", "fma"):
        a, b = values[:2]
        b = -b if function == "sub" else b
        if special:
            if function in ("add", "sub"):
                return a + b
            product = (
                a * b if not (math.isinf(a) and b == 0 or math.isinf(b) and a == 0) else math.nan
            )
            if len(values) == 2:
                return product
            sized = product if math.isfinite(a) is False or math.isfinite(b) is False else 0.0
            return sized + values[2]
        if function in ("add", "sub"):
            total = Fraction(a) + Fraction(b)
            return total if total else a + b
        if function == "mul":
            return Fraction(a) * Fraction(b) or math.copysign(
                0.0, math.copysign(1, a) * math.copysign(1, b)
            )
        total = Fraction(a) * Fraction(b) + Fraction(values[2])
        zero = math.copysign(0.0, math.copysign(1, a) * math.copysign(1, b))
        return total or (zero + values[2] if a * b == 0 or values[2] == 0 else 0.0)
    if function == "div":
        a, b = values
        if special or b == 0:
            if (
                math.isnan(a)
                or math.isnan(b)
                or (a == 0 and b == 0)
                or (math.isinf(a) and math.isinf(b))
            ):
                return math.nan
            sign = math.copysign(1, a) * math.copysign(1, b)
            return math.copysign(0.0 if math.isinf(b) else math.inf, sign)
        return Fraction(a) / Fraction(b) or math.copysign(
            0.0, math.copysign(1, a) * math.copysign(1, b)
        )
    raise KeyError(function)


def square_root(a: float, kind: str, mode: str) -> float:
    if math.isnan(a) or a < 0:
        return math.nan
    if a == 0 or math.isinf(a):
        return a
    # The root of a * 4^k as an integer, with a sticky bit below.
    shift = 1200
    n = Fraction(a) * (1 << 2 * shift)
    root = math.isqrt(n.numerator // n.denominator)
    sticky = root * root != n
    return rounded(Fraction(2 * root + sticky, 2 << shift), kind, mode)


def minimum(a: float, b: float, smaller: bool, keep_nan: bool) -> float:
    if math.isnan(a) or math.isnan(b):
        return (
            math.nan if keep_nan or (math.isnan(a) and math.isnan(b)) else b if math.isnan(a) else a
        )
    first = (a, math.copysign(1, a)) < (b, math.copysign(1, b))
    return a if first == smaller else b


def integer(name: str, mods: set[str], kind: str) -> Callable[..., Any]:
    n = width(kind)
    wide = kind[0] + str(2 * n)
    sat = "sat" in mods

    def fit(value: int) -> int:
        return clamp(value, kind) if sat else wrap(value, kind)

    def quotient(a: int, b: int) -> int:
        return -1 if b == 0 else int(Fraction(a, b))

    def low24(a: int) -> int:
        return wrap(a, "x24") - (1 << 24) * (kind[0] == "s" and wrap(a, "x24") >> 23)

    part = next((m for m in ("lo", "hi", "wide") if m in mods), "lo")

    def product(a: int, b: int) -> int:
        return a * b if part != "hi" else a * b >> n

    return {
        "add": lambda a, b: fit(a + b),
        "sub": lambda a, b: fit(a - b),
        "mul": lambda a, b: wrap(product(a, b), wide if part == "wide" else kind),
        "mad": lambda a, b, c: (
            wrap(product(a, b) + c, wide) if part == "wide" else fit(product(a, b) + c)
        ),
        "mul24": lambda a, b: wrap(low24(a) * low24(b) >> (16 if part == "hi" else 0), kind),
        "mad24": lambda a, b, c: wrap(
            (low24(a) * low24(b) >> (16 if part == "hi" else 0)) + c, kind
        ),
        "sad": lambda a, b, c: wrap(c + abs(a - b), kind),
        "div": lambda a, b: wrap(quotient(a, b), kind),
        "rem": lambda a, b: a if b == 0 else wrap(a - quotient(a, b) * b, kind),
        "abs": lambda a: wrap(abs(a), kind),
        "neg": lambda a: wrap(-a, kind),
        "min": lambda a, b: max(min(a, b), 0) if "relu" in mods else min(a, b),
        "max": lambda a, b: max(a, b, 0) if "relu" in mods else max(a, b),
    }[name]


def bits(name: str, mods: set[str], kind: str) -> Callable[..., Any]:
    n = 1 if kind == "pred" else width(kind)
    ones = (1 << n) - 1
    signed = kind[0] == "s"

    def bfe(a: int, b: int, c: int) -> int:
        position, length = b & 255, c & 255
        u = a & ones
        sign = (u >> min(position + length - 1, n - 1)) & 1 if signed and length else 0
        value = 0
        for i in range(n):
            bit = (u >> (position + i)) & 1 if i < length and position + i < n else sign
            value |= bit << i
        return wrap(value, kind)

    def bfi(a: int, b: int, c: int, d: int) -> int:
        position, length = c & 255, d & 255
        for i in range(length):
            if position + i < n and i < n:
                b = b & ~(1 << position + i) | (a >> i & 1) << (position + i)
        return b & ones

    def prmt(a: int, b: int, c: int) -> int:
        data = struct.pack("<II", a, b)
        mode = next((m for m in mods), None)
        s = c & 3
        chosen = {
            "f4e": [s, s + 1, s + 2, s + 3], "b4e": [s, (s - 1) & 7, (s - 2) & 7, (s - 3) & 7],
            "rc8": [s] * 4, "ecl": [max(s, i) for i in range(4)],
            "ecr": [min(s, i) for i in range(4)], "rc16": [2 * (s & 1), 2 * (s & 1) + 1] * 2,
        }.get(mode or "", [c >> 4 * i & 15 for i in range(4)])  # fmt: skip
        out = []
        for i in chosen:
            byte = data[i & 7]
            out.append((255 if byte & 128 else 0) if i & 8 and mode is None else byte)
        return int.from_bytes(bytes(out), "little")

    def shf(a: int, b: int, c: int) -> int:
        k = min(c, 32) if "clamp" in mods else c & 31
        both = b << 32 | a
        return (both << k >> 32 if "l" in mods else both >> k) & ones

    def bmsk(a: int, b: int) -> int:
        if "wrap" in mods:
            a, b = a & 31, b & 31
        return (((1 << min(b, 64)) - 1) << min(a, 64)) & ones

    def bfind(a: int) -> int:
        u = ~a & ones if a < 0 else a
        place = u.bit_length() - 1
        if place < 0:
            return 0xFFFFFFFF
        return n - 1 - place if "shiftamt" in mods else place

    return {
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
        "not": lambda a: (not a) if n == 1 else ~a & ones,
        "cnot": lambda a: int(a == 0),
        "shl": lambda a, b: a << b & ones if b < n else 0,
        "shr": lambda a, b: a >> min(b, n),
        "shf": shf,
        "bfe": bfe,
        "bfi": bfi,
        "bmsk": bmsk,
        "prmt": prmt,
        "lop3": lambda a, b, c, t: sum(
            (t >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i
            for i in range(32)
        ),
        "brev": lambda a: int(f"{a:0{n}b}"[::-1], 2),
        "popc": lambda a: bin(a).count("1"),
        "clz": lambda a: n - a.bit_length(),
        "bfind": bfind,
    }[name]


def compare(mods: set[str], kind: str) -> Callable[..., Any]:
    name = next(m for m in mods if m in COMPARISONS or m[:2] in COMPARISONS or m in ("num", "nan"))
    join = next((m for m in ("and", "or", "xor") if m in mods), None)

    def test(a: Any, b: Any, c: Any = None) -> bool:
        if kind == "f32" and "ftz" in mods:
            a, b = flush(a), flush(b)
        unordered = kind[0] == "f" and (math.isnan(a) or math.isnan(b))
        if name in ("num", "nan"):
            result = unordered == (name == "nan")
        elif unordered:
            result = name not in COMPARISONS
        else:
            result = COMPARISONS[name if name in COMPARISONS else name[:2]](a, b)
        return {"and": result and c, "or": result or c, "xor": result != c, None: result}[join]  # type: ignore[index]

    return test


def convert(mods: set[str], to: str, source: str) -> Callable[..., Any]:
    mode = next((m for m in ("rz", "rm", "rp", "rna") if m in mods), "rn")
    integral = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
    rounder = next((integral[m] for m in mods if m in integral), None)

    def finish(x: float) -> float:
        if "sat" in mods:
            x = 0.0 if math.isnan(x) else min(max(x, 0.0), 1.0) + 0.0
        return flush(x) if "ftz" in mods and to == "f32" else x

    def apply(a: Any) -> Any:
        if source == "f32" and "ftz" in mods:
            a = flush(a)
        if source[0] in "us" and to[0] in "us":
            return clamp(a, to) if "sat" in mods else wrap(a, to)
        if source[0] in "us":
            return finish(rounded(Fraction(a), to, mode))
        if to[0] in "us":
            if math.isnan(a):
                wide = width(to) == 64 or source == "f64"
                return wrap(1 << width(to) - 1, to) if wide else 0
            low, high = limits(to)
            if math.isinf(a):
                return high if a > 0 else low
            assert rounder is not None
            return clamp(rounder(Fraction(a)), to)
        if rounder is not None and math.isfinite(a):
            return finish(math.copysign(float(rounder(Fraction(a))), a))
        return finish(rounded(a, to, mode) if to in FORMATS else a)

    return apply
