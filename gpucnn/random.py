"""Random numbers: one seed, one counter of calls, the same numbers on every device.

Each call that needs random numbers takes the next key, (seed, call number), of the counter-based
generator Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
in the form of `numpy.random.Philox`. Kernels compute the words they need from their index alone.
"""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_seed = 0
_calls = 0


def manual_seed(seed: int) -> None:
    """Start the engine's random numbers anew from `seed` (any integer; its low 64 bits count).

    Without a call, the seed is 0: runs are reproducible by default.
    """
    global _seed, _calls
    _seed, _calls = int(seed) & _MASK, 0


def initial_seed() -> int:
    """The seed in force."""
    return _seed


def next_key() -> tuple[int, int]:
    """The Philox key (seed, call number) of the next random operation."""
    global _calls
    key = (_seed, _calls)
    _calls += 1
    return key


def host_generator() -> np.random.Generator:
    """A NumPy generator keyed by the seed and the call number, for numbers drawn on the host."""
    return np.random.Generator(np.random.Philox(key=np.array(next_key(), dtype=np.uint64)))


def get_state() -> tuple[int, int]:
    """(seed, calls made so far), for a checkpoint."""
    return _seed, _calls


def set_state(state: tuple[int, int]) -> None:
    """Continue from a state that `get_state` returned."""
    global _seed, _calls
    seed, calls = state
    _seed, _calls = int(seed) & _MASK, int(calls)
