"""Unpack archives of clips so that nothing can land outside of the folder.

Why: an archive is a list of file names that a stranger wrote. `../` in one, or a link, overwrites files of yours.

    extract("clips.tar.gz", "data/video_clips")
"""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cookbook.samples import DataError


def extract(archive: str | Path, out: str | Path, replace: bool = False) -> list[Path]:
    """Unpack a .tar, .tar.gz, .tar.bz2, .tar.xz or .zip into `out`. Returns the files, sorted.

    All or nothing: it is unpacked beside its place first, so an archive that is refused or broken leaves no file.
    Raises DataError that names the archive where an entry is absolute, holds `..`, is a link or a device, where the
    archive is damaged, or where a file of that name is there already and `replace` does not allow to replace it.
    """
    archive, out = Path(archive), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unpacking-") as spare:
        try:
            if zipfile.is_zipfile(archive):
                _unzip(archive, spare)
            else:
                _untar(archive, spare)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error})") from None
        return sorted(_move(Path(spare), out, archive, replace))


def _untar(archive: Path, folder: str) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python unpacks without a check; take the newest 3.10, 3.11 or 3.12")

    def only_files(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo:
        if not (member.isfile() or member.isdir()):
            raise DataError(f"{archive}: {member.name!r} is a link or a device; pack plain files")
        if ".." in PurePosixPath(member.name).parts or member.name.startswith("/"):
            raise DataError(f"{archive}: {member.name!r} leaves the folder")
        return tarfile.data_filter(member, place)

    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter=only_files)


def _unzip(archive: Path, folder: str) -> None:
    with zipfile.ZipFile(archive) as pack:
        for entry in pack.infolist():
            parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
            if ".." in parts or entry.filename.startswith(("/", "\\")) or ":" in parts[0]:
                raise DataError(f"{archive}: {entry.filename!r} leaves the folder")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise DataError(f"{archive}: {entry.filename!r} is a link or a device; pack plain files")
        if (needed := sum(e.file_size for e in pack.infolist())) > shutil.disk_usage(folder).free:
            raise DataError(f"{archive}: needs {needed / 1e9:.1f} GB, more than the disk has free")
        pack.extractall(folder)


def _move(source: Path, out: Path, archive: Path, replace: bool) -> Iterator[Path]:
    """Move all files from one folder tree into another. Yields the new paths."""
    files = [Path(root) / name for root, _, names in os.walk(source) for name in names]
    places = [out / file.relative_to(source) for file in files]
    for place in places:
        if not place.parent.resolve().is_relative_to(out.resolve()):
            raise DataError(f"{archive}: {place} leaves the folder by a link")
        if os.path.lexists(place) and not replace:
            raise DataError(f"{archive}: {place} is there already")
    for file, place in zip(files, places):
        place.parent.mkdir(parents=True, exist_ok=True)
        yield file.replace(place)
