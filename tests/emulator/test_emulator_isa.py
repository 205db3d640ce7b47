"""Every row of the table of instructions against exact arithmetic on edge values."""

from __future__ import annotations

import itertools
import math
from typing import Any

import isa_reference as ref
import numpy as np
import pytest

from gpucnn.emulator import isa
from gpucnn.emulator.lower import constant
from gpucnn.emulator.rounding import flush, from_bfloat16
from gpucnn.emulator.syntax import Imm

RNG = np.random.default_rng(1)
FLOATS = [
    0.0, -0.0, 1.0, -1.0, 1.5, -2.5, 0.5, 3.0, 1e-3, math.pi, -1e10, 65504.0, 1e30,
    3.4028234663852886e38,
    1.1754943508222875e-38, 1.1754942106924411e-38, 1.401298464324817e-45, -5.877e-39, 2.0**24 + 1,
    math.inf, -math.inf, math.nan,
]  # fmt: skip
INTEGERS = [0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, -1, -2, -7]


def values(kind: str) -> np.ndarray[Any, Any]:
    """Edge values and random ones of a type."""
    dtype = isa.dtype_of(kind)
    if kind == "pred":
        return np.array([False, True])
    if kind in ("bf16", "bf16x2", "f16x2", "tf32"):
        bits = np.array([0, 0x8000, 0x3F80, 0x3C00, 0x4049, 0xBF80, 0x7F7F, 0x0001], np.uint64)
        bits = bits | (bits[::-1] << np.uint64(16)) if dtype.itemsize == 4 else bits
        return bits.astype(dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            edges = np.array(FLOATS).astype(dtype)
            spread = (RNG.standard_normal(12) * 2.0 ** RNG.integers(-20, 20, 12)).astype(dtype)
        if dtype.itemsize == 8:
            edges = np.append(edges, [2.0**-1022, 2.0**-1074, 1.7e308, 2.0**53 + 2, 1 + 2.0**-52])
        return np.concatenate([edges, spread])
    low, high = ref.limits(kind if kind[0] in "us" else "u" + kind[1:])
    edges_ = [v for v in INTEGERS if low <= v <= high] + [low, high, high - 1, high // 2 + 1]
    random = [int(v) for v in RNG.integers(low, high, 6, dtype=np.dtype(f"{'i' if low else 'u'}8"))]
    return np.array(
        [v % (1 << 8 * dtype.itemsize) for v in edges_ + random], f"u{dtype.itemsize}"
    ).view(dtype)


def operands(kinds: tuple[str, ...], limit: int = 700) -> list[np.ndarray[Any, Any]]:
    """All combinations of edge values, or a random choice of them."""
    pools = [values(kind) for kind in kinds]
    count = math.prod(len(p) for p in pools)
    if count <= limit:
        index = np.array(list(itertools.product(*(range(len(p)) for p in pools)))).T
    else:
        index = np.array([RNG.integers(0, len(p), limit) for p in pools])
    return [p[i] for p, i in zip(pools, index)]


def evaluate(opcode: str, *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The row's function on values brought into the forms it wants."""
    operation = isa.find(opcode)
    assert operation is not None, opcode
    ready = []
    for array, form in zip(arrays, operation.forms):
        array = flush(array) if "z" in form else array
        ready.append(array.astype(np.float64) if "w" in form else array)
    with np.errstate(all="ignore"):
        result = operation.function(*ready)
    assert np.asarray(result).dtype == isa.dtype_of(operation.results[0]), (opcode, result.dtype)
    return np.broadcast_to(result, arrays[0].shape)


def python(array: np.ndarray[Any, Any]) -> list[Any]:
    return array.tolist()


def same(got: Any, expected: Any, opcode: str) -> bool:
    if isinstance(expected, float):
        if math.isnan(expected):
            return math.isnan(got)
        return got == expected and (got != 0 or math.copysign(1, got) == math.copysign(1, expected))
    return bool(got == expected)


def check(opcode: str, function: Any, tolerance: float = 0.0) -> None:
    operation = isa.find(opcode)
    assert operation is not None, f"no row for {opcode}"
    arrays = operands(operation.sources)
    got = python(evaluate(opcode, *arrays))
    for *arguments, result in zip(*(python(a) for a in arrays), got):
        expected = function(*arguments)
        if (
            tolerance
            and isinstance(expected, float)
            and math.isfinite(expected)
            and math.isfinite(result)
        ):
            assert abs(result - expected) <= tolerance * abs(expected), (
                opcode,
                arguments,
                result,
                expected,
            )
        else:
            assert same(result, expected, opcode), (opcode, arguments, result, expected)


INTEGER = {
    "add",
    "sub",
    "mul",
    "mad",
    "mul24",
    "mad24",
    "sad",
    "div",
    "rem",
    "abs",
    "neg",
    "min",
    "max",
}
BITS = {"and", "or", "xor", "not", "cnot", "shl", "shr", "shf", "bfe", "bfi", "bmsk", "prmt",
        "lop3", "brev", "popc", "clz", "bfind"}  # fmt: skip
APPROXIMATE = {"ex2", "lg2", "sin", "cos", "tanh", "rsqrt"}


def split(opcode: str) -> tuple[str, set[str], list[str]]:
    name, *parts = opcode.split(".")
    return name, {p for p in parts if p not in isa.CODES}, [p for p in parts if p in isa.CODES]


def variants(opcode: str) -> list[str]:
    """The opcode with each rounding mode, flushing and saturation that its row takes."""
    operation = isa.find(opcode)
    assert operation is not None
    name, mods, kinds = split(opcode)
    optional = operation.row.modifiers - operation.row.needs
    choices: list[set[str]] = [set()]
    rounds = [m for m in ("rn", "rz", "rm", "rp", "rna") if m in optional]
    extra = [m for m in ("ftz", "sat", "relu", "NaN", "shiftamt") if m in optional]
    if name == "prmt":
        choices += [{m} for m in optional]
    choices += [{m} for m in rounds + extra]
    choices += [{r, "ftz"} for r in rounds if "ftz" in optional]
    if {"ftz", "sat"} <= optional:
        choices.append({"ftz", "sat"})
    return [".".join([name, *sorted(mods | c), *kinds]) for c in choices]


def float_reference(name: str, mods: set[str], kind: str) -> Any:
    mode = next((m for m in ("rz", "rm", "rp") if m in mods), "rn")
    ftz = "ftz" in mods and kind == "f32"
    function = "fma" if name == "mad" else name

    def apply(*arguments: float) -> float:
        if ftz:
            arguments = tuple(ref.flush(a) for a in arguments)
        a = arguments[0]
        if function in ("add", "sub", "mul", "fma", "div"):
            result = ref.rounded(ref.exact(function, *arguments), kind, mode)
        elif function == "rcp":
            result = ref.rounded(ref.exact("div", 1.0, a), kind, mode)
        elif function == "sqrt":
            result = ref.square_root(a, kind, mode)
        elif function in ("min", "max"):
            result = ref.minimum(*arguments, function == "min", "NaN" in mods)
        elif function == "copysign":
            result = math.copysign(arguments[1], a)
        elif function == "abs":
            result = abs(a)
        else:
            result = -a
        if "sat" in mods:
            result = 0.0 if math.isnan(result) else min(max(result, 0.0), 1.0) + 0.0
        if "relu" in mods:
            result = result if result > 0 else 0.0
        return ref.flush(result) if ftz else result

    return apply


EXACT_OPCODES = [
    op for op in isa.opcodes()
    if split(op)[0] not in APPROXIMATE | {"lop3", "dp4a", "selp", "slct", "set", "testp"}
    and not {"approx", "full"} & split(op)[1]
    and not any(k in ("f16x2", "bf16x2", "bf16", "tf32", "u16x2", "s16x2") for k in split(op)[2])
]  # fmt: skip


def reference(opcode: str) -> Any:
    name, mods, kinds = split(opcode)
    if name == "cvt":
        return ref.convert(mods, *kinds)
    if name == "setp":
        return ref.compare(mods, kinds[0])
    if kinds[0][0] == "f":
        return float_reference(name, mods, kinds[0])
    if name in BITS:
        return ref.bits(name, mods, kinds[0])
    assert name in INTEGER, name
    return ref.integer(name, mods, kinds[0])


@pytest.mark.parametrize("name", sorted({split(op)[0] for op in EXACT_OPCODES}))
def test_exact(name: str) -> None:
    """Bit for bit, in every type, rounding mode, with flushing and saturation."""
    for opcode in EXACT_OPCODES:
        if split(opcode)[0] != name:
            continue
        for each in variants(opcode) if name not in ("setp",) else [opcode]:
            _, mods, kinds = split(each)
            if {"rm", "rp", "rz"} & mods and kinds[0] in ("f64", "f32") and name != "cvt":
                check_directed(each)
            elif (
                {"sat", "ftz"} & mods
                and name == "cvt"
                and kinds[0][0] != "f"
                and kinds[1][0] == "f"
            ):
                check(each.replace(".sat", ""), reference(each))
            elif name == "fma" and kinds[0] == "f16":
                continue  # see test_halves
            elif not ({"relu", "NaN"} & mods and kinds[0] == "f16"):
                check(each, reference(each))


def check_directed(opcode: str) -> None:
    """Directed rounding: the value is exact, but for a zero's sign and float64's extremes."""
    operation = isa.find(opcode)
    assert operation is not None
    function = reference(opcode)
    arrays = operands(operation.sources, 600)
    got = python(evaluate(opcode, *arrays))
    _, _, kinds = split(opcode)
    for *arguments, result in zip(*(python(a) for a in arrays), got):
        if kinds[0] == "f64" and any(a != 0 and not 1e-100 < abs(a) < 1e100 for a in arguments):
            continue
        expected = function(*arguments)
        if math.isinf(result) or abs(result) > 3.4e38:
            continue
        assert result == expected or (math.isnan(result) and math.isnan(expected)), (
            opcode,
            arguments,
            result,
            expected,
        )


@pytest.mark.parametrize(
    ("opcode", "function", "tolerance"),
    [
        ("ex2.approx.ftz.f32", lambda a: 2.0**a, 2**-22.5),
        ("rcp.approx.ftz.f32", lambda a: 1 / a, 2**-23),
        ("sqrt.approx.ftz.f32", math.sqrt, 2**-23),
        ("rsqrt.approx.ftz.f32", lambda a: 1 / math.sqrt(a), 2**-22.4),
        ("tanh.approx.f32", math.tanh, 2**-11),
        ("lg2.approx.ftz.f32", math.log2, 2**-20),
        ("sin.approx.ftz.f32", math.sin, 2**-20.5),
        ("cos.approx.ftz.f32", math.cos, 2**-20.5),
        ("rcp.approx.ftz.f64", lambda a: 1 / a, 2**-20),
        ("rsqrt.approx.ftz.f64", lambda a: 1 / math.sqrt(a), 2**-20),
        ("rsqrt.approx.f64", lambda a: 1 / math.sqrt(a), 2**-20),
        ("ex2.approx.f16", lambda a: 2.0**a, 2**-9.9),
        ("tanh.approx.f16", math.tanh, 2**-10),
    ],
)
def test_approximate(opcode: str, function: Any, tolerance: float) -> None:
    """Within the error the PTX ISA allows."""
    operation = isa.find(opcode)
    assert operation is not None
    a = np.concatenate([RNG.uniform(0.01, 3.1, 300), [0.5, 1, 2, 3]]).astype(
        isa.dtype_of(operation.sources[0])
    )
    got = evaluate(opcode, a).astype(np.float64)
    expected = np.array([function(float(v)) for v in a])
    bound = tolerance * (
        np.maximum(np.abs(expected), 1) if opcode[:3] in ("lg2", "sin", "cos") else np.abs(expected)
    )
    assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize(
    "opcode", ["div.full.ftz.f32", "div.approx.ftz.f32", "div.full.f32", "div.approx.f32"]
)
def test_approximate_division(opcode: str) -> None:
    a, b = operands(("f32", "f32"))
    fine = (
        (np.abs(a) >= 2.0**-126) & (np.abs(b) > 2.0**-126) & (np.abs(b) < 2.0**126) & np.isfinite(a)
    )
    a, b = a[fine], b[fine]
    fine = np.abs(a.astype(np.float64) / b) < 1e38
    a, b = a[fine], b[fine]
    got, expected = evaluate(opcode, a, b), a.astype(np.float64) / b
    subnormal = np.abs(expected) < 2.0**-125
    assert (subnormal | (np.abs(got - expected) <= 2**-22 * np.abs(expected))).all()


def test_division_by_a_large_number() -> None:
    big = np.array([2.0**127], np.float32)
    assert (
        evaluate("div.approx.f32", big, big)[0] == 0 and evaluate("div.full.f32", big, big)[0] == 1
    )


def halves(word: int, brain: bool) -> list[float]:
    found = []
    for shift in (0, 16):
        bits = np.array([word >> shift & 0xFFFF], np.uint16)
        found.append(float((from_bfloat16(bits) if brain else bits.view(np.float16))[0]))
    return found


@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma", "min", "max", "neg", "abs"])
@pytest.mark.parametrize("kind", ["f16", "bf16", "f16x2", "bf16x2"])
def test_halves(name: str, kind: str) -> None:
    """16-bit floats: rounded once, in pairs too."""
    brain, pair = kind.startswith("bf"), kind.endswith("x2")
    scalar = "bf16" if brain else "f16"
    count = {"fma": 3, "neg": 1, "abs": 1}.get(name, 2)
    size = "u4" if pair else "u2"
    raw = [RNG.integers(0, 2**32, 400, dtype=np.uint32).astype(size) for _ in range(count)]
    ready = raw if pair or brain else [r.view(np.float16) for r in raw]
    got = evaluate(f"{name}.{kind}", *ready).view(size)
    for *words, result in zip(*(r.tolist() for r in raw), got.tolist()):
        parts = [halves(w, brain) for w in words]
        for k in range(2 if pair else 1):
            arguments = [p[k] for p in parts]
            expected = float_reference(name, set(), scalar)(*arguments)
            value = halves(result, brain)[k]
            assert value == expected or (math.isnan(value) and math.isnan(expected)), (
                name,
                kind,
                arguments,
                value,
                expected,
            )


@pytest.mark.parametrize("name", ["selp", "slct", "set", "testp"])
def test_selections(name: str) -> None:
    for opcode in isa.opcodes():
        if split(opcode)[0] == name:
            check_selection(opcode)


def check_selection(opcode: str) -> None:
    name, mods, kinds = split(opcode)
    operation = isa.find(opcode)
    assert operation is not None
    arrays = operands(operation.sources, 300)
    got = evaluate(opcode, *arrays)
    for i, result in enumerate(python(got)):
        v = [a[i].item() for a in arrays]
        if name == "selp":
            expected: Any = v[0] if v[2] else v[1]
        elif name == "slct":
            expected = v[0] if v[2] >= 0 else v[1]
        elif name == "set":
            true = ref.compare(mods, kinds[1])(*v)
            expected = float(true) if kinds[0] == "f32" else (ref.wrap(-1, kinds[0]) if true else 0)
        else:
            tiny = 2.0 ** ref.FORMATS[kinds[0]][1]
            expected = {
                "finite": math.isfinite(v[0]), "infinite": math.isinf(v[0]),
                "number": not math.isnan(v[0]), "notanumber": math.isnan(v[0]),
                "normal": math.isfinite(v[0]) and abs(v[0]) >= tiny,
                "subnormal": 0 < abs(v[0]) < tiny,
            }[next(iter(mods))]  # fmt: skip
        assert same(result, expected, opcode), (opcode, v, result, expected)


def test_tf32_and_bf16() -> None:
    a = np.array(
        [1 + 2.0**-11, 1 + 2.0**-10, 1 + 3 * 2.0**-11, -1 - 2.0**-11, math.inf, 1e-40], np.float32
    )
    away = evaluate("cvt.rna.tf32.f32", a).view(np.float32)
    assert away.tolist()[:4] == [1 + 2.0**-10, 1 + 2.0**-10, 1 + 2.0**-9, -1 - 2.0**-10]
    assert np.isinf(away[4])
    even = evaluate("cvt.rn.tf32.f32", a).view(np.float32)
    assert even.tolist()[:3] == [1.0, 1 + 2.0**-10, 1 + 2.0**-9]
    numbers = values("f32")
    for mode in ("rn", "rz"):
        got = evaluate(f"cvt.{mode}.bf16.f32", numbers)
        for v, bits in zip(numbers.tolist(), got):
            expected = ref.rounded(v, "bf16", mode)
            value = float(from_bfloat16(np.array([bits]))[0])
            assert value == expected or (math.isnan(value) and math.isnan(expected)), (v, value)
    packed = evaluate("cvt.rn.bf16x2.f32", np.array([1.0], np.float32), np.array([2.0], np.float32))
    assert packed[0] == 0x3F804000
    packed = evaluate("cvt.rn.f16x2.f32", np.array([1.0], np.float32), np.array([-2.0], np.float32))
    assert packed[0] == 0x3C00C000


def test_lop3() -> None:
    """Every table of three bits."""
    a, b, c, _ = operands(("b32", "b32", "b32", "b32"), 40)
    function = ref.bits("lop3", set(), "b32")
    for table in range(256):
        got = evaluate("lop3.b32", a, b, c, np.array([table], np.uint32))
        expected = [function(*v, table) for v in zip(a.tolist(), b.tolist(), c.tolist())]
        assert got.tolist() == expected


def test_dot_products_of_bytes() -> None:
    a, b = np.array([0x7F8001FF], np.uint32), np.array([0x02030405], np.uint32)
    c = np.array([10], np.int32)
    assert (
        evaluate("dp4a.s32.s32", a.view(np.int32), b.view(np.int32), c)[0]
        == 127 * 2 - 128 * 3 + 4 - 5 + 10
    )
    unsigned = evaluate("dp4a.u32.u32", a, b, c.view(np.uint32))
    assert unsigned[0] == 127 * 2 + 128 * 3 + 4 + 255 * 5 + 10


def test_fma_of_random_float64_is_exact() -> None:
    n = 2000
    a, b = (RNG.standard_normal(n) * 2.0 ** RNG.integers(-30, 30, n) for _ in range(2))
    c = -a * b * (1 + RNG.integers(-3, 4, n) * 2.0**-52)  # cancels almost all
    got = evaluate("fma.rn.f64", a, b, c)
    for x, y, z, r in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist()):
        assert r == ref.rounded(ref.exact("fma", x, y, z), "f64")


def test_fma_of_float32_on_ties() -> None:
    """Where rounding to float64 first would be wrong: a tie that a tiny addend breaks."""
    a = np.array([1 + 2.0**-12] * 4, np.float32)
    c = np.array([2.0**-60, -(2.0**-60), 2.0**-100, 0], np.float32)
    got = evaluate("fma.rn.f32", a, np.ones(4, np.float32) * np.float32(1 + 2.0**-12), c)
    for x, z, r in zip(a.tolist(), c.tolist(), got.tolist()):
        assert r == ref.rounded(ref.exact("fma", x, x, z), "f32")


def test_every_row_is_tested() -> None:
    """The rows that `test_exact` leaves out have a test of their own here."""
    left = {split(op)[0] for op in isa.opcodes()} - {split(op)[0] for op in EXACT_OPCODES}
    assert left == APPROXIMATE | {"lop3", "dp4a", "selp", "slct", "set", "testp"}
    assert constant(Imm(-1), "u4")[0] == 0xFFFFFFFF
