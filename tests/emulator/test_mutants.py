"""Defects seeded into each shared-memory kernel: the emulated device exposes them.

`GPUCNN_ALL_MUTANTS=1` judges every mutant (minutes); else a fixed sample over kernels, operators.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from emulator_helpers import MAJORS
from mutant_launches import TARGETS, Target
from mutant_trial import generated, judge
from mutation import OPERATORS, Mutant, mutants

pytestmark = pytest.mark.skipif(not MAJORS, reason="NVRTC is not installed")

ALL = os.environ.get("GPUCNN_ALL_MUTANTS", "0") not in ("", "0")
SAMPLE = 20
"""Mutants of a kernel's file in the normal run, about."""
LEAST = 0.90 if ALL else 0.80
"""Of the mutants of each file, survivors that are equivalent counted as not exposed. A sample of
20 may by chance hold more of those than their share."""


class Equivalent(NamedTuple):
    """Survivors that are no defect: `old` -> `new` in a line that holds `line`.

    targets: where it survives, all when empty.
    """

    file: str
    operator: str
    old: str
    new: str
    line: str
    why: str
    targets: tuple[str, ...] = ()

    def covers(self, target: str, m: Mutant) -> bool:
        return (
            (self.file, self.operator, self.old, self.new)
            == (m.place.partition(":")[0], m.operator, m.old, m.new)
            and self.line in m.line
            and (not self.targets or target in self.targets)
        )


_LOOP, _MASK, _INDEX = "loop bound off by one", "mask dropped", "index shifted"
_TILE = "gemm_tile.cuh"
EQUIVALENT = (
    Equivalent(_TILE, _MASK, "begin >= end", "false", "return;",
               "without depth the fetches give zeros and the loop does not run"),
    Equivalent(_TILE, _MASK, "more", "true", "if (more) {",
               "past the end the fetches load nothing, and what they keep is not read again"),
    Equivalent(_TILE, "pad removed", " + 4", "", "PITCH",
               "the pad is for stores along the depth; this kernel has none",
               ("conv2d_backward_weight.cu",)),
    Equivalent("layout.cuh", _INDEX, "MAX_RANK - 1", "MAX_RANK - 1 + 1", "axis--",
               "that axis is never below the rank"),
    Equivalent("layout.cuh", _LOOP, ">", ">=", "axis--",
               "axis 0 done in the loop leaves 0 for the line behind it"),
    Equivalent("layout.cuh", _LOOP, "<", "<=", "k < OPERANDS",
               "an operand too many has no register: the compiler drops it"),
    Equivalent("reduce.cu", _LOOP, "last", "(last) - 1", "CHUNK",
               "a last whole chunk is left to the loop for the rest, which adds the same"),
    Equivalent("reduce.cu", "initial value changed", "identity", "1", "slots[thread] = identity;",
               "only slots of outputs that do not exist keep it, and nobody reads those"),
    Equivalent("softmax.cu", "barrier removed", "__syncthreads()", "", "__syncthreads();",
               "before the maximum, the first use of the array; row_sum needs its own"),
    Equivalent("cross_entropy.cu", _LOOP, "<", "<=", "first < g.rows",
               "a turn without rows: every access has a mask of its own"),
    Equivalent("cross_entropy.cu", _MASK, "g.smoothing != 0", "true", "loss +=",
               "adds 0 * 0: the sum is made under the same condition"),
    Equivalent("cross_entropy.cu", _MASK, "!ignored", "true", "if (!ignored)",
               "an ignored row is zero whatever its scale"),
    Equivalent("cross_entropy.cu", "initial value changed", "0", "1", "real scale = 0, hit = 0;",
               "an ignored row is zero whatever its scale"),
    Equivalent("cross_entropy.cu", "barrier removed", "__syncthreads()", "", "__syncthreads();",
               "redundant: between it and the tree's barrier each slot is touched by its owner"),
    Equivalent("batch_norm.cu", _MASK, "a.count == 0", "false", "return b;",
               "an empty set is all zeros: the formula gives b"),
    Equivalent("dropout.cu", "array too short", "WORDS * PITCH", "(WORDS * PITCH) - 1",
               "__shared__", "the last row's pad is never touched"),
    Equivalent("dropout.cu", _LOOP, "<", "<=", "first < count",
               "a turn without elements: every access has a mask of its own"),
)  # fmt: skip


def _chosen(numbered: list[Mutant]) -> list[int]:
    """The numbers of all mutants, or of a sample with every operator in it."""
    if ALL:
        return list(range(len(numbered)))
    shuffled = random.Random(3).sample(range(len(numbered)), len(numbered))
    seen: Counter[str] = Counter()
    turns = []
    for number in shuffled:  # operators take turns
        turns.append((seen[numbered[number].operator], number))
        seen[numbered[number].operator] += 1
    return sorted(number for _, number in sorted(turns)[:SAMPLE])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.file)
def test_mutants_are_exposed(target: Target, say: Callable[[str], None]) -> None:
    numbered = generated(target, target.launches())
    verdicts = judge(target.file, _chosen(numbered))
    survivors = [v for v in verdicts if not v.how]
    share = 1 - len(survivors) / len(verdicts)
    how = Counter((v.how or "survived").partition(":")[0] for v in verdicts)
    lines = [
        f"mutants of {target.file}: {len(verdicts) - len(survivors)} of {len(verdicts)} exposed "
        f"({100 * share:.1f} %; {len(numbered)} places; "
        + ", ".join(f"{kind} {n}" for kind, n in how.most_common()) + ")"
    ]  # fmt: skip
    used, unexplained = [], []
    for mutant in (v.mutant for v in survivors):
        entry = next((e for e in EQUIVALENT if e.covers(target.file, mutant)), None)
        lines.append(f"  survivor {mutant}: {entry.why if entry else 'NOT EXPLAINED'}")
        used.append(entry)
        unexplained += [str(mutant)] if entry is None else []
    say("\n".join(lines))
    assert not unexplained, "\n".join(unexplained)
    assert share >= LEAST
    if ALL:
        own = {m.place.partition(":")[0] for m in numbered}
        stale = [e for e in EQUIVALENT if e.file in own - {"gemm_tile.cuh"} and e not in used]
        assert not stale, f"exposed, so not equivalent: {stale}"


def test_every_kernel_with_shared_memory_is_a_target() -> None:
    from gpucnn.backends.gpu.kernel import KERNELS

    using = {
        path.name
        for path in KERNELS.glob("*.cu")
        if any(word in path.read_text() for word in ("__shared__", "__shfl", "gemm_tile.cuh"))
    }
    using |= {p.name for p in KERNELS.glob("*.cu") if '"conv2d.cuh"' in p.read_text()}
    assert using == {target.file for target in TARGETS}


EXAMPLE = """#line 1 "example.cu"
extern "C" __global__ void f(const float* x, float* y, int n) {
  __shared__ float tile[2][32][32 + 1];
  int now = 0;
  float top = -INFINITY;
  for (int i = threadIdx.x; i < n; i += 32) {
    tile[now ^ 1][0][i] = x[i];  // __syncthreads() in a comment
    __pipeline_wait_prior(0);
    __syncthreads();
    top = __shfl_xor_sync(~0u, top, 16);
    now ^= 1;
  }
  if (n > 3) y[0] = top;
}
"""


def test_operators_find_their_places() -> None:
    made = mutants(EXAMPLE)
    assert {m.operator for m in made} == set(OPERATORS)
    changed = {(m.operator, m.old, m.new) for m in made}
    assert {
        ("barrier removed", "__syncthreads()", ""),
        ("buffer index off", "now ^ 1", "now"),
        ("loop bound off by one", "<", "<="),
        ("loop bound off by one", "n", "(n) - 1"),
        ("mask dropped", "n > 3", "true"),
        ("pad removed", " + 1", ""),
        ("array too short", "32 + 1", "(32 + 1) - 1"),
        ("wait weakened", "0", "1"),
        ("index shifted", "i", "(i) + 1"),
        ("shuffle offset off", "16", "(16) + 1"),
        ("initial value changed", "-INFINITY", "1"),
    } <= changed
    assert sum(m.operator == "barrier removed" for m in made) == 1
    assert all(m.apply(EXAMPLE) != EXAMPLE for m in made)
    assert {m.place for m in made if m.operator == "shuffle offset off"} == {"example.cu:9"}
