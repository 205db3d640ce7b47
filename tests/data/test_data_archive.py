"""Archives that try to leave their folder."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gpucnn.data import DataError
from gpucnn.data.archive import unpack


def make(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_unpacks(tmp_path: Path) -> None:
    archive = make(
        tmp_path / "a.tar.gz",
        special("inner", tarfile.DIRTYPE),
        ("inner/one", b"1"),
        ("./inner/deep/two", b"22"),
        ("other/three", b"333"),
    )
    folder = unpack(archive, "inner")
    assert folder == tmp_path / "inner"
    assert (folder / "one").read_bytes() == b"1"
    assert (folder / "deep" / "two").read_bytes() == b"22"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "inner"]


@pytest.mark.parametrize(
    "hostile",
    [
        ("../escaped", b"x"),
        ("inner/../../escaped", b"x"),
        ("/tmp/escaped", b"x"),
        ("..\\escaped", b"x"),
        ("C:/escaped", b"x"),
        special("inner/link", tarfile.SYMTYPE, "/etc"),
        special("inner/link", tarfile.SYMTYPE, "one"),
        special("inner/hard", tarfile.LNKTYPE, "inner/one"),
        special("inner/device", tarfile.CHRTYPE),
        special("inner/block", tarfile.BLKTYPE),
        special("inner/pipe", tarfile.FIFOTYPE),
    ],
)
def test_hostile_members(tmp_path: Path, hostile: tuple[str, bytes] | tarfile.TarInfo) -> None:
    root = tmp_path / "root"
    root.mkdir()
    archive = make(root / "a.tar.gz", ("inner/one", b"1"), hostile)
    with pytest.raises(DataError, match=r"a\.tar\.gz: byte \d+ .*nothing was unpacked"):
        unpack(archive, "inner")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert [path.name for path in root.iterdir()] == ["a.tar.gz"]


def test_too_many_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make(tmp_path / "a.tar.gz", *[(f"inner/{i}", b"12345") for i in range(4)])
    monkeypatch.setattr("gpucnn.data.archive.MEMBERS", 3)
    with pytest.raises(DataError, match="expected at most 3 members"):
        unpack(archive, "inner")
    monkeypatch.setattr("gpucnn.data.archive.MEMBERS", 4)
    monkeypatch.setattr("gpucnn.data.archive.BYTES", 19)
    with pytest.raises(DataError, match="of 19 bytes together"):
        unpack(archive, "inner")
    assert not (tmp_path / "inner").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b[:-6],
        lambda b: b"",
        lambda b: b"no archive",
        lambda b: gzip.compress(b"no archive"),
        lambda b: b[:40] + bytes([b[40] ^ 255]) + b[41:],
    ],
)
def test_damaged(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    archive = make(tmp_path / "a.tar.gz", ("inner/one", bytes(range(256)) * 40))
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match=r"a\.tar\.gz: "):
        unpack(archive, "inner")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be unpacked: No such file"):
        unpack(tmp_path / "a.tar.gz", "inner")
