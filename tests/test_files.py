"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from pathlib import Path

import pytest

from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.files import atomic_folder, atomic_write, human_size, sha256_of, temporary_folder, write_whole
from rtmo_deploy.outputs import require_free


def fail_while_writing(path, error):
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / "new" / "x.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == path.parent
        assert not path.exists()
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.bin"]


def test_an_older_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_on_any_error_nothing_is_left_and_the_old_file_stays(tmp_path, error):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(error):
        fail_while_writing(path, error())
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.bin"]


def test_a_full_disk(tmp_path):
    path = tmp_path / "x.bin"
    with pytest.raises(SetupError, match=r"x\.bin: The file could not be written: No space left") as caught:
        fail_while_writing(path, OSError(28, "No space left on device"))
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.bin", tmp_path / "folder"):
        with pytest.raises(SetupError), atomic_write(path) as temporary:
            temporary.write_bytes(b"x")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


def test_it_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda _: events.append((tmp_path / "x.bin").exists()))
    with atomic_write(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"x")
    assert events == [False]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_it_has_the_permissions_of_an_ordinary_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.bin").stat().st_mode) == mode


def test_a_content_is_written_as_it_is(tmp_path):
    for content in ("Größe\r\n\n", b"\xff\x00\r\n"):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == (content.encode() if isinstance(content, str) else content)
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_bytes() == b"\xff\x00\r\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_hash(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x.bin") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (27_618_651, "26.3 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**42, "4096.0 GiB"),
    ],
)
def test_sizes_in_words(count, words):
    assert human_size(count) == words


def _refused(outputs, inputs, *, force=False):
    with pytest.raises(UsageError) as caught:
        require_free(outputs, inputs, force=force)
    return caught.value.finding


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dots"])
@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_an_output(tmp_path, link, force):
    source = tmp_path / "a.onnx"
    source.write_bytes(b"model")
    output = {"same": source, "dots": tmp_path / "x" / ".." / "a.onnx"}.get(link, tmp_path / "b.onnx")
    (tmp_path / "x").mkdir()
    if link == "symlink":
        output.symlink_to(source)
    elif link == "hardlink":
        output.hardlink_to(source)
    assert "one of the inputs" in _refused([output], [source, None, "rtmo-s"], force=force)


def test_an_image_in_a_folder_of_inputs_is_an_input_and_another_file_there_is_not(tmp_path):
    image, other = tmp_path / "a" / "y.jpg", tmp_path / "a" / "found.json"
    image.parent.mkdir()
    image.write_bytes(b"\xff\xd8\xff\xe0")
    other.write_text("[]")
    assert "one of the inputs" in _refused([image], [tmp_path], force=True)
    require_free([other], [tmp_path], force=True)


def test_what_exists_is_replaced_with_force_alone(tmp_path):
    old, broken = tmp_path / "old.onnx", tmp_path / "broken.onnx"
    old.write_bytes(b"old")
    broken.symlink_to(tmp_path / "nowhere")
    for path in (old, broken):
        assert "exists already" in _refused([path], [])
        require_free([path], [], force=True)
    assert "folder" in _refused([tmp_path], [], force=True)
    assert "Two outputs" in _refused([tmp_path / "n", tmp_path / "." / "n"], [], force=True)
    with pytest.raises(SetupError, match="not a folder"):
        require_free([old / "under" / "x"], [])
    require_free([None, tmp_path / "new" / "deep" / "x"], [])
    with pytest.raises(UsageError, match="stands for stdout"):
        require_free([Path("-")], [])


def test_a_folder_appears_whole(tmp_path):
    folder = tmp_path / "made"
    with atomic_folder(folder) as made:
        (made / "a").write_text("1")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["a"]
    with atomic_folder(folder) as made:
        (made / "b").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def fail_in_a_folder(folder, error):
    with atomic_folder(folder) as made:
        (made / "b").write_text("2")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_a_folder_that_is_not_finished_changes_nothing(tmp_path, error):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "a").write_text("1")
    with pytest.raises(SetupError if error is OSError else error):
        fail_in_a_folder(folder, error)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_cannot_take_its_place_is_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "a").write_text("1")
    replace = Path.replace

    def refuse(self, target):
        if self.name == "new":
            raise OSError(5, "no")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SetupError, match="could not be written"), atomic_folder(folder) as made:
        (made / "b").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_temporary_folder_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SetupError, match="Set TMPDIR"), temporary_folder():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), temporary_folder() as folder:
        (folder / "no" / "such").read_bytes()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(SetupError, match="No temporary folder can be made: No such file"), temporary_folder():
        pass
