"""The program of docs/guides/video.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from clips import clip, read

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "video.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the checkout")
def test_the_program_copies_a_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "walk.mp4", stamps=[3, 4, 9], sound="aac")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(program, {})
    assert [frame.time_s for frame in read("copy.mp4")[0]] == [frame.time_s for frame in read("walk.mp4")[0]]
