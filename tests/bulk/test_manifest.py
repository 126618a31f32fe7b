"""Which images a bulk run is about."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtmo_deploy.bulk import find_images
from rtmo_deploy.errors import InputDataError, UsageError


def names(table: pa.Table) -> list[str]:
    return [Path(os.fsdecode(file)).name for file in table["file"].to_pylist()]


def write(path: Path, /, **columns: object) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_each_image_once_by_its_absolute_name(pictures, tmp_path, monkeypatch):
    folder = tmp_path / "süß #1 100%"
    folder.mkdir()
    for number, picture in enumerate(pictures[:3]):
        shutil.copy(picture, folder / f"{number}.png")
    (folder / "list.txt").write_text("2.png\n0.png\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    table, failures = find_images(["1.png", ".", str(folder / "list.txt"), "[01].png"])
    assert not failures
    assert names(table) == ["1.png", "0.png", "2.png"]
    assert table["id"].to_pylist() == [str(folder / name) for name in names(table)]


def test_what_is_no_image_is_a_row_and_what_is_not_there_an_error(pictures, tmp_path):
    (tmp_path / "note.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "walk.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    given = [str(tmp_path / name) for name in ("note.jpg", "empty.png", "nowhere.png", "walk.mp4")]
    table, failures = find_images([*given, str(pictures[0])])
    assert set(names(table)) == {"note.jpg", "empty.png", pictures[0].name}
    assert {Path(failure.where or "").name for failure in failures} == {"nowhere.png", "walk.mp4"}
    assert "It is a video." in str(failures)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_a_name_that_is_no_text(pictures, tmp_path):
    file = os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.png")
    shutil.copy(pictures[0], file)
    table, _ = find_images([str(tmp_path)])
    assert table["id"].to_pylist() == [
        str(tmp_path / r"\xff\xfe.png").replace("\\xff", "\\udcff").replace("\\xfe", "\\udcfe")
    ]
    assert os.fsdecode(table["file"][0].as_py()) == file


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.string(), pa.large_string()])
def test_a_manifest(tmp_path, kind):
    ids = pa.array([3, 1, 2]).cast(kind)
    file = write(
        tmp_path / "all.parquet", id=ids, path=["a.png", "/b.png", "https://user:secret@host/c.png"], more=[1, 2, 3]
    )
    table, failures = find_images([file])
    assert not failures
    assert table["id"].to_pylist() == ([3, 1, 2] if pa.types.is_integer(kind) else ["3", "1", "2"])
    files = [os.fsdecode(name) for name in table["file"].to_pylist()]
    assert files == [str(tmp_path / "a.png"), "/b.png", "https://user:secret@host/c.png"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": [1, 1], "path": ["a", "b"]}, "1 ids occur twice"),
        ({"id": [1, None], "path": ["a", "b"]}, "is empty"),
        ({"id": ["a", "b"], "path": ["a", None]}, "is empty"),
        ({"id": [1, 2]}, "no columns 'id' and 'path'"),
        ({"path": ["a"]}, "no columns 'id' and 'path'"),
        ({"id": [[1], [2]], "path": ["a", "b"]}, "are not read"),
        ({"id": [1.5, 2], "path": ["a", "b"]}, "Ids of type double"),
        ({"id": [True, False], "path": ["a", "b"]}, "Ids of type bool"),
        ({"id": pa.array([1, 2], pa.timestamp("ms")), "path": ["a", "b"]}, "Ids of type timestamp"),
        ({"id": [1, 2], "path": [[1], [2]]}, "are not read"),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path, columns, said):
    with pytest.raises(InputDataError, match=said):
        find_images([write(tmp_path / "all.parquet", **columns)])


def test_a_manifest_that_is_none(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputDataError, match="cannot be read as a manifest"):
        find_images([str(tmp_path / "a.parquet")])
    with pytest.raises(InputDataError, match="No such file"):
        find_images([str(tmp_path / "b.parquet")])
    with pytest.raises(UsageError, match="read alone"):
        find_images([str(tmp_path / "a.parquet"), "photos"])


def test_an_address_without_its_password(tmp_path):
    table, _ = find_images(["https://user:secret@host/c.png"])
    assert "secret" not in table["id"][0].as_py()
    assert b"secret" in table["file"][0].as_py()
