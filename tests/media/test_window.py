"""The window: what it shows, what closes it, and what is said where there is none."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import ImageTk

from rtmo_deploy.errors import SetupError
from rtmo_deploy.media.window import Window


class Tk:
    """As much of tkinter as a window needs; keys come when the window is updated."""

    TclError = RuntimeError

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.titles: list[str] = []
        self.shown: Any = None
        self.destroyed = False
        self.bound: dict[str, Any] = {}

    def Tk(self) -> Tk:  # noqa: N802
        return self

    def Label(self, *_: Any, **__: Any) -> Any:  # noqa: N802
        return SimpleNamespace(pack=lambda: None, configure=lambda image: setattr(self, "shown", image))

    def protocol(self, name: str, call: Any) -> None:
        self.bound[name] = call

    bind = protocol

    def winfo_screenwidth(self) -> int:
        return 1000

    winfo_screenheight = winfo_screenwidth

    def title(self, text: str) -> None:
        self.titles.append(text)

    def update(self) -> None:
        if self.keys:
            key = self.keys.pop(0)
            if key == "close":
                self.bound["WM_DELETE_WINDOW"]()
            elif key:
                self.bound["<Key>"](SimpleNamespace(keysym=key))

    def destroy(self) -> None:
        self.destroyed = True


@pytest.fixture
def tk(monkeypatch: pytest.MonkeyPatch) -> Tk:
    made = Tk()
    monkeypatch.setitem(sys.modules, "tkinter", made)
    monkeypatch.setattr(ImageTk, "PhotoImage", lambda image, **_: image)
    return made


def test_frames_are_shown_and_keys_close_it(tk: Tk) -> None:
    image = np.zeros((500, 3000, 3), np.uint8)
    image[..., 0] = 200  # blue
    with Window() as window:
        assert window.show(image, title="a.mp4")
        assert tk.shown.size == (900, 150)
        assert tk.shown.getpixel((5, 5)) == (0, 0, 200)
        assert tk.titles == ["a.mp4"]
        tk.keys = ["", "space"]
        assert window.show(image, wait=True)
        assert tk.keys == []
        tk.keys = ["", "", "q"]
        assert not window.show(image, wait=True)
        assert not tk.destroyed
    assert tk.destroyed
    with Window() as window:
        tk.keys = ["close"]
        assert not window.show(image)


def test_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter")
    if sys.platform in {"win32", "darwin"}:
        pytest.skip("there is always a display")
    monkeypatch.setenv("DISPLAY", "")
    with pytest.raises(SetupError, match=r"display.*--vis-out-dir"):
        Window()


def test_without_tkinter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(SetupError, match="python3-tk"):
        Window()
