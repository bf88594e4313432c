"""Archives: what is in them lands inside the folder, or nothing lands at all."""

import io
import os
import tarfile

import pytest

from cookbook.data.samples import DataError
from data_tools.formats.hub import extract


def tar(path, *members):
    """Writes a .tar.gz of (name, content or TarInfo type, link target)."""
    with tarfile.open(path, "w:gz") as out:
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


def test_files_are_unpacked(tmp_path):
    archive = tar(tmp_path / "clips.tar.gz", ("clips/a.mp4", b"one"), ("clips/Straße.mp4", b"two"))
    extract(archive, tmp_path / "out")
    assert everything(tmp_path / "out") == ["clips", "clips/Straße.mp4", "clips/a.mp4"]
    assert (tmp_path / "out/clips/a.mp4").read_bytes() == b"one"


def test_several_archives_share_a_folder_and_a_half_file_is_replaced(tmp_path):
    out = tmp_path / "out"
    extract(tar(tmp_path / "1.tar.gz", ("clips/a.mp4", b"o")), out)
    extract(tar(tmp_path / "2.tar.gz", ("clips/b.mp4", b"two")), out)
    extract(tar(tmp_path / "3.tar.gz", ("clips/a.mp4", b"one"), ("clips/c.mp4", b"c")), out)
    assert everything(out) == ["clips", "clips/a.mp4", "clips/b.mp4", "clips/c.mp4"]
    assert (out / "clips/a.mp4").read_bytes() == b"one"


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


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/clips").symlink_to(outside)
    with pytest.raises(DataError, match="by a link"):
        extract(tar(tmp_path / "1.tar.gz", ("clips/a.mp4", b"x")), tmp_path / "out")
    assert not everything(outside)


@pytest.mark.parametrize("damage", ["cut", "flipped", "flipped later", "no archive", "missing"])
def test_damaged_archives_leave_nothing(damage, tmp_path):
    path = tar(tmp_path / "a.tar.gz", *((f"{i}.mp4", os.urandom(5000)) for i in range(5)))
    content = bytearray(path.read_bytes())
    if damage.startswith("flipped"):
        content[60 if damage == "flipped" else 12_000] ^= 255
    path.write_bytes({"cut": bytes(content[:9000]), "no archive": b"<html>404"}.get(damage, bytes(content)))
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError, match=r"a\.tar\.gz: cannot be unpacked"):
        extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == []


def test_a_python_that_cannot_check_is_told_which_one_can(tmp_path, monkeypatch):
    monkeypatch.delattr("tarfile.data_filter")
    with pytest.raises(DataError, match=r"take 3\.10\.12, 3\.11\.4"):
        extract(tar(tmp_path / "a.tar.gz", ("a.mp4", b"x")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
