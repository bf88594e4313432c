"""Archives: what is in them lands inside the folder, or nothing lands at all."""

import io
import os
import tarfile
import zipfile

import pytest

from cookbook.samples import DataError
from data_tools.archives import extract


def tar(path, *members, mode="w:gz"):
    """Writes a tar of (name, content or TarInfo type, link target)."""
    with tarfile.open(path, mode) as out:
        for name, content, *link in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes) and not link:
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content, (link or [""])[0]
                out.addfile(info)
    return path


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_files_are_unpacked(mode, tmp_path):
    archive = tmp_path / "clips.any"  # what it is is told by its content, not by its name
    if mode == "zip":
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr("clips/a.mp4", b"one")
            out.writestr("clips/Straße.mp4", b"two")
    else:
        tar(archive, ("clips/a.mp4", b"one"), ("clips/Straße.mp4", b"two"), mode=mode)
    out = tmp_path / "out"
    assert extract(archive, out) == [out / "clips/Straße.mp4", out / "clips/a.mp4"]
    assert (out / "clips/a.mp4").read_bytes() == b"one" and everything(out) == [
        "clips",
        "clips/Straße.mp4",
        "clips/a.mp4",
    ]


def test_several_archives_share_a_folder_and_nothing_is_overwritten(tmp_path):
    out = tmp_path / "out"
    extract(tar(tmp_path / "1.tar.gz", ("clips/a.mp4", b"one")), out)
    extract(tar(tmp_path / "2.tar.gz", ("clips/b.mp4", b"two")), out)
    again = tar(tmp_path / "3.tar.gz", ("clips/a.mp4", b"new"), ("clips/c.mp4", b"c"))
    with pytest.raises(DataError, match="is there already"):
        extract(again, out)
    assert everything(out) == ["clips", "clips/a.mp4", "clips/b.mp4"] and (out / "clips/a.mp4").read_bytes() == b"one"
    extract(again, out, replace=True)
    assert (out / "clips/a.mp4").read_bytes() == b"new"


BAD = {
    "up": ("../evil.mp4", b"x"),
    "up and down": ("clips/../../out2/evil.mp4", b"x"),
    "absolute": ("/tmp/evil-absolute.mp4", b"x"),
    "link out": ("clips/link.mp4", tarfile.SYMTYPE, "/etc/passwd"),
    "link in": ("clips/link.mp4", tarfile.SYMTYPE, "a.mp4"),
    "hard link": ("clips/link.mp4", tarfile.LNKTYPE, "/etc/passwd"),
    "device": ("clips/null", tarfile.CHRTYPE, ""),
    "pipe": ("clips/pipe", tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("member", BAD.values(), ids=BAD)
def test_entries_that_leave_or_link_are_refused_and_leave_nothing(member, tmp_path):
    archive = tar(tmp_path / "bad.tar.gz", ("clips/a.mp4", b"good"), member)
    before = everything(tmp_path)
    with pytest.raises(DataError, match=r"bad\.tar\.gz"):
        extract(archive, tmp_path / "out")
    assert everything(tmp_path) == sorted([*before, "out"])
    assert not os.path.exists("/tmp/evil-absolute.mp4")


@pytest.mark.parametrize(
    "name", ["../evil.mp4", "/evil.mp4", "..\\evil.mp4", "C:\\evil.mp4", "clips/../../x.mp4", "link"]
)
def test_bad_zip_entries(name, tmp_path):
    entry = zipfile.ZipInfo(name)
    if name == "link":
        entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as out:
        out.writestr("a.mp4", b"good")
        out.writestr(entry, b"/etc/passwd")
    with pytest.raises(DataError, match=r"bad\.zip: .* (leaves the folder|is a link)"):
        extract(tmp_path / "bad.zip", tmp_path / "out")
    assert everything(tmp_path) == ["bad.zip", "out"]


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/clips").symlink_to(outside)
    with pytest.raises(DataError, match="by a link"):
        extract(tar(tmp_path / "1.tar", ("clips/a.mp4", b"x"), mode="w"), tmp_path / "out", replace=True)
    assert not everything(outside)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no archive", "missing", "zip"])
def test_damaged_archives_leave_nothing(damage, tmp_path):
    path = tar(tmp_path / "a.tar.gz", *((f"{i}.mp4", os.urandom(5000)) for i in range(5)))
    content = bytearray(path.read_bytes())
    if damage == "zip":
        with zipfile.ZipFile(path, "w") as out:
            out.writestr("a.mp4", b"x" * 5000)
        content = bytearray(path.read_bytes())
    if damage in ("flipped", "zip"):
        content[60] ^= 255
    path.write_bytes({"cut": bytes(content[:9000]), "no archive": b"<html>404"}.get(damage, bytes(content)))
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError, match=r"a\.tar\.gz: cannot be unpacked"):
        extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == []
