"""The folder of compiled code: found again, shared by processes, never in the way."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from gpucnn.backends.gpu import nvrtc, store
from gpucnn.backends.gpu.precompile import Job, compile_all, missing
from gpucnn.backends.gpu.store import Store, key

SOURCE = 'extern "C" __global__ void __launch_bounds__(32) f(float* x) { x[threadIdx.x] = 1; }\n'
needs_nvrtc = pytest.mark.skipif(not nvrtc.compilers(), reason="no NVRTC is installed")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty."""
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path))
    assert store.folder() == tmp_path
    monkeypatch.delenv("GPUCNN_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.folder() == tmp_path / "gpucnn" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.folder() == tmp_path / ".cache" / "gpucnn" / "kernels"


def test_keys_tell_parts_apart() -> None:
    assert key("a", "b") == key("a", b"b") != key("ab", "") != key("b", "a")
    assert len({key("a", "b"), key("ab"), key("ab", ""), key("", "ab")}) == 4


def test_what_was_put_is_found(tmp_path: Path) -> None:
    kept = Store(tmp_path / "new" / "folder")
    assert kept.get("aa1") is None
    kept.put("aa1", b"text" * 1000)
    assert kept.get("aa1") == b"text" * 1000 and (kept.hits, kept.misses) == (1, 1)
    assert Store(kept.place).get("aa1") == b"text" * 1000
    assert list(kept.place.rglob("*.part")) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: b"no"])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: object) -> None:
    kept = Store(tmp_path)
    kept.put("aa1", b"text" * 1000)
    (path,) = tmp_path.glob("aa/*")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert kept.get("aa1") is None
    kept.put("aa1", b"again")
    assert kept.get("aa1") == b"again"


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    kept = Store(tmp_path / "file" / "below")
    kept.put("aa1", b"text")
    assert kept.get("aa1") is None
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(kept.place))
    assert store.problem() == f"{kept.place} cannot be made: Not a directory"
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path))
    assert store.problem() is None


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    for i in range(8):
        kept.put(f"{i}{i}x", os.urandom(1000))
        (path,) = tmp_path.glob(f"{i}{i}/*")
        os.utime(path, (1e9 + i, 1e9 + i))
    assert kept.get("00x") is not None  # used now: the newest
    kept.prune(limit=20_000)
    assert all(kept.get(f"{i}{i}x") is not None for i in range(8))
    for i in range(1, 8):
        (path,) = tmp_path.glob(f"{i}{i}/*")
        os.utime(path, (1e9 + i, 1e9 + i))
    kept.prune(limit=6_000)
    left = sorted(path.name for path in tmp_path.glob("??/*"))
    assert left == ["00x", "77x"]  # half of the limit: two files of a thousand bytes and a few


def _write_often(place: str) -> list[bytes | None]:
    kept = Store(Path(place))
    found = []
    for _ in range(50):
        kept.put("aa1", b"the same" * 5000)
        found.append(kept.get("aa1"))
    return found


def test_processes_share_it(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for found in pool.map(_write_often, [str(tmp_path)] * 2):
            assert set(found) == {b"the same" * 5000}


@needs_nvrtc
@pytest.mark.parametrize("major", sorted(nvrtc.compilers()))
def test_nothing_is_compiled_twice(place: Path, major: int) -> None:
    compiler = nvrtc.compilers()[major]
    before = compiler.compilations
    first = compiler.compile(SOURCE, "f.cu", "sm_80")
    assert compiler.compilations == before + 1
    again = compiler.compile(SOURCE, "f.cu", "sm_80")
    assert again == first and again.resources["f"].registers > 0
    assert compiler.compilations == before + 1
    # Whatever the result depends on is in its name.
    compiler.compile(SOURCE + " ", "f.cu", "sm_80")
    compiler.compile(SOURCE, "g.cu", "sm_80")
    compiler.compile(SOURCE, "f.cu", "sm_90")
    compiler.compile(SOURCE, "f.cu", "compute_80")
    compiler.compile(SOURCE, "f.cu", "compute_80", ["-lineinfo"])
    assert compiler.compilations == before + 6


@needs_nvrtc
def test_the_compilers_do_not_share_results(place: Path) -> None:
    codes = {c.compile(SOURCE, "f.cu", "compute_80").code for c in nvrtc.compilers().values()}
    assert len(codes) == len(nvrtc.compilers())


@needs_nvrtc
def test_without_a_folder_compiling_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path / "file"))
    compiler = next(iter(nvrtc.compilers().values()))
    before = compiler.compilations
    codes = [compiler.compile(SOURCE, "f.cu", "compute_80").code for _ in range(2)]
    assert codes[0] == codes[1] and compiler.compilations == before + 2


@needs_nvrtc
def test_many_at_once(place: Path) -> None:
    major = min(nvrtc.compilers())
    jobs = [Job(major, SOURCE.replace("= 1", f"= {i}"), "f.cu", "sm_80") for i in range(7)]
    compiled = compile_all([*jobs, jobs[0]], workers=2)
    assert [c.resources["f"].spill_stores for c in compiled] == [0] * 8
    assert len({c.code for c in compiled}) == 7 and compiled[0] == compiled[7]
    assert missing(jobs) == []
    before = nvrtc.compilers()[major].compilations
    assert compile_all(jobs, workers=2) == compiled[:7]
    assert nvrtc.compilers()[major].compilations == before


@needs_nvrtc
def test_an_error_of_one_of_many_names_it(place: Path) -> None:
    major = min(nvrtc.compilers())
    jobs = [Job(major, "nothing;", f"{i}.cu", "sm_80") for i in range(6)]
    with pytest.raises(nvrtc.CompileError, match=r"0\.cu for sm_80"):
        compile_all(jobs, workers=2)
