"""Survivors that are no defects, each with the reason."""

from __future__ import annotations

from typing import NamedTuple

from mutation import Mutant


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
_START = "initial value changed"
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
    Equivalent("block_reduce.cuh", "shuffle offset off", "step", "(step) + 1", "__shfl_xor_sync",
               "the masks 17, 9, 5, 3 and 2 reach every lane once, too"),
    Equivalent("cross_entropy.cu", _LOOP, "<", "<=", "first < g.rows",
               "a turn without rows: every access has a mask of its own"),
    Equivalent("batch_norm.cu", _MASK, "addend != nullptr", "true", "result.v[j] +=",
               "without an addend what is added is 0"),
    Equivalent("dropout.cu", _LOOP, "<", "<=", "first < count",
               "a turn without elements: every access has a mask of its own"),
    Equivalent("augment.cu", _START, "{}", "{1}", "Pack<float, 4> quad",
               "elements behind the end keep it, and are not stored"),
    Equivalent("conv2d_backward_input.cu", _START, "{}", "{1}", "Quad row, other",
               "read where there is an addend or a mask only, and then they are loaded"),
    Equivalent("move.cu", "pad removed", " + 32", "", "FEW * (THREADS + 32)",
               "at most 15 channels come here, and their pitch is 271"),
    Equivalent("move.cu", "array too short", "FEW * (THREADS + 32)", "(FEW * (THREADS + 32)) - 1",
               "__shared__", "at most 15 channels come here, and their pitch is 271"),
    Equivalent("simt_tile.cuh", "wait weakened", "wait_for_quads()", "", "wait_for_quads();",
               "both operands follow the depth and come through registers",
               ("conv2d_simt_forward.cu",)),
    Equivalent("simt_tile.cuh", "wait weakened", "cp.async.wait_all;", "", "cp.async.wait_all",
               "both operands follow the depth and come through registers",
               ("conv2d_simt_forward.cu",)),
    *(Equivalent(f"conv2d_simt_{name}.cu", _LOOP, "<", "<=", "tap < taps",
                 "the tap behind the last is written, and never looked at")
      for name in ("forward", "backward_input")),
    Equivalent("batch_norm.cu", _START, "center = 0", "center = 1", "real count = 0",
               "a union with a set of nothing takes the other's mean"),
    Equivalent("conv2d_forward.cu", _MASK, "addend != nullptr", "true", "row.v[j] +=",
               "without an addend what is added is 0"),
    *(Equivalent("cross_entropy.cu", _LOOP, "<", "<=", line,
                 "a row too many counts as ignored, with a weight of 0")
      for line in ("i < g.rows; i += BLOCK", "* BLOCK + threadIdx.x; i < g.rows;")),
    Equivalent("block_reduce.cuh", _MASK, "thread % 32 == 0", "true", "shared[thread / 32]",
               "behind the butterfly every lane of the warp holds the same sum"),
    Equivalent("simt_tile.cuh", "wait weakened", "cp.async.wait_all;", "", "asm volatile",
               "both operands follow the depth and come through registers",
               ("conv2d_simt_forward.cu",)),
    Equivalent("batch_norm.cu", "array too short", "BLOCK", "(BLOCK) - 1", "__shared__ Vector",
               "256 units would come in lines of 8 or 32: no block is more than 255 wide"),
    Equivalent("batch_norm.cu", _START, "{}", "{1}", "added[CHUNK] = {}",
               "read where there is an addend only, and then it is loaded"),
    Equivalent("gemm.cu", "array too short", "WARPS * OWN", "(WARPS * OWN) - 1", "__shared__",
               "the pad of the last line is never touched"),
    Equivalent("gemm.cu", _MASK, "end - k > WARPS * STEP", "true", "fetch(",
               "behind the end nothing is loaded, and what is fetched is not kept"),
    Equivalent("tensorcore_tile.cuh", "barrier removed", "__syncwarp()", "", "__syncwarp();",
               "it holds the compiler back; the warp exchanges nothing there"),
    Equivalent("conv2d_depthwise_quads_backward_weight.cu", "array too short", "32 * SUMS",
               "(32 * SUMS) - 1", "__shared__", "a warp has two quads of channels, of room for 8"),
    *(
        Equivalent(f"conv2d_simt_{name}.cu", _MASK, "min(pixel, pixels - 1)", "(pixel)",
                   "pixel_of(",
                   "rows behind the last have no corner, and nothing is loaded")
        for name in ("forward", "backward_input")
    ),
    *(
        Equivalent(f"conv2d_simt_{name}.cu", _LOOP, "<", "<=", "tap < taps; tap += THREADS",
                   "an entry too many, which nobody reads (where there is room for it: 128 taps, "
                   "too slow to launch here, would show it)")
        for name in ("forward", "backward_input")
    ),
)  # fmt: skip
