"""Defects seeded into each shared-memory kernel: the emulated device exposes them.

`GPUCNN_ALL_MUTANTS=1` judges every mutant (minutes); else a fixed sample over kernels, operators.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable

import pytest
from emulator_helpers import MAJORS
from mutant_equivalents import EQUIVALENT
from mutant_launches import Target
from mutant_targets import TARGETS
from mutant_trial import bench_of, judge
from mutation import OPERATORS, Mutant, mutants

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.kernel import KERNELS

pytestmark = pytest.mark.skipif(not MAJORS, reason="NVRTC is not installed")

ALL = os.environ.get("GPUCNN_ALL_MUTANTS", "0") not in ("", "0")
SAMPLE = 6
"""Mutants of a kernel's file in the normal run, about."""
LEAST = 0.90 if ALL else 0.50
"""Of the mutants of each file, survivors that are equivalent counted as not exposed. A sample of
6 may by chance hold more of those than their share."""


def _chosen(numbered: list[Mutant]) -> list[int]:
    """The numbers of all mutants, or of a sample with every operator in it.

    Which ones follows from their own text: a change elsewhere in the file chooses no others.
    """
    if ALL:
        return list(range(len(numbered)))

    def drawn(number: int) -> bytes:
        m = numbered[number]
        return hashlib.sha256("\n".join((m.operator, m.old, m.new, m.line)).encode()).digest()

    seen: Counter[str] = Counter()
    turns = []
    for number in sorted(range(len(numbered)), key=drawn):  # operators take turns
        turns.append((seen[numbered[number].operator], drawn(number), number))
        seen[numbered[number].operator] += 1
    return sorted(number for *_, number in sorted(turns)[:SAMPLE])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.file)
def test_mutants_are_exposed(target: Target, say: Callable[[str], None]) -> None:
    numbered = bench_of(target.file).mutants
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
        meant = [e for e in EQUIVALENT if e.file in own and target.file in (*e.targets, e.file)]
        stale = [e for e in meant if e not in used]
        assert not stale, f"exposed, so not equivalent: {stale}"


def test_every_kernel_with_shared_memory_is_a_target() -> None:
    """Files that use shared memory or shuffles, or that splice a file which does."""
    words = ("__shared__", "__shfl")
    using = {
        path.name
        for path in KERNELS.glob("*.cu")
        if any(word in kernel.module(path.name).source for word in words)
    }
    assert using == {target.file for target in TARGETS}
    assert len(TARGETS) == len(using)


def test_equivalent_mutants_exist() -> None:
    """Every entry is of a line that its file has today."""
    for entry in EQUIVALENT:
        lines = (KERNELS / entry.file).read_text().splitlines()
        assert any(entry.line in line and entry.old in line for line in lines), entry


EXAMPLE = """#line 1 "example.cu"
extern "C" __global__ void f(const float* x, float* y, int n) {
  __shared__ float tile[2][32][32 + 1];
  int now = 0, other = 64;
  float top = -INFINITY;
  for (int i = threadIdx.x; i < n; i += 32) {
    tile[now ^ 1][0][i] = x[i];  // __syncthreads() in a comment
    __pipeline_wait_prior(0);
    __syncthreads();
    top = __shfl_xor_sync(~0u, top, 16);
    now ^= 1;
    other = -other;
    load_shared(&top, place(i ^ 3 * n) + other);
    asm volatile("cp.async.commit_group;" ::: "memory");
    wait_for_copies<STAGES - 2>();
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = 0;
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
        ("buffer index off", "-other", "other"),
        ("swizzle removed", " ^ 3 * n", ""),
        ("address shifted", "place(i ^ 3 * n) + other", "(place(i ^ 3 * n) + other) + 16"),
        ("wait weakened", "cp.async.commit_group;", ""),
        ("wait weakened", "wait_for_copies<STAGES - 2>()", ""),
        ("wait weakened", "STAGES - 2", "STAGES - 2 + 1"),
    } <= changed
    assert sum(m.operator == "barrier removed" for m in made) == 1
    assert sum((m.old, m.new) == ("<", "<=") for m in made) == 1, "not where it is unrolled"
    assert all(m.apply(EXAMPLE) != EXAMPLE for m in made)
    assert {m.place for m in made if m.operator == "shuffle offset off"} == {"example.cu:9"}
