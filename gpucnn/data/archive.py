"""Unpacking a .tar.gz without letting it reach outside its folder.

Only regular files and folders are taken; their bytes are written by us, so owners, modes, links
and devices of the archive have no effect. One member that tries to leave refuses the whole archive:
everything is written into a temporary folder, and what the caller wants is moved out of it last.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .errors import DataError

if TYPE_CHECKING:
    import tarfile

MEMBERS = 1000  # far above what the data sets have; stops archives made to fill a disk
BYTES = 1 << 30
_PIECE = 1 << 20


def unpack(archive: Path, folder_name: str) -> Path:
    """Unpacks `archive` beside itself, all or nothing.

    Args:
        archive: the .tar.gz file.
        folder_name: the folder it must contain, and all that is kept of it.

    Returns:
        The unpacked folder, `archive.parent / folder_name`.

    Raises:
        DataError: not a whole .tar.gz, a member with an absolute path, with `..`, a link or a
            device, too large, without that folder; or the place cannot be written.
    """
    import gzip
    import tarfile
    import tempfile
    import zlib

    target = archive.parent / folder_name
    try:
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=archive.parent) as temporary:
            with gzip.open(archive) as stream:
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    _unpack_all(tar, archive, Path(temporary))
                # A tar ends before its gzip does; the checksum comes at the very end.
                while stream.read(_PIECE):
                    continue
            unpacked = Path(temporary, folder_name)
            if not unpacked.is_dir():
                raise DataError(f"{archive}: expected a folder {folder_name} in it, found none")
            unpacked.rename(target)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: expected a whole .tar.gz, found: {error}") from error
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked: {error.strerror or error}") from error
    return target


def _unpack_all(tar: tarfile.TarFile, archive: Path, folder: Path) -> None:
    size = 0
    for count, member in enumerate(tar):
        path = PurePosixPath(member.name)
        where = f"{archive}: byte {member.offset} after decompression: member {member.name!r}"
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
            raise DataError(f"{where} leaves the folder of the archive; nothing was unpacked")
        if not (member.isreg() or member.isdir()):
            raise DataError(
                f"{where} is a link or a device, expected files and folders; nothing was unpacked"
            )
        size += member.size
        if count >= MEMBERS or size > BYTES:
            raise DataError(
                f"{where}: expected at most {MEMBERS} members of {BYTES} bytes together, "
                f"found more; nothing was unpacked"
            )
        _write(tar, member, folder.joinpath(*path.parts))


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    import shutil

    source = tar.extractfile(member)
    if source is None:  # a folder
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file)
