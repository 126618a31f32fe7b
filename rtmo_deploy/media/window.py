"""A window that shows images, by tkinter: OpenCV's headless build has none."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

from rtmo_deploy.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Window:
    """A window that is open within a ``with`` block.

    Raises:
        SetupError: Python comes without tkinter, or there is no display.
    """

    def __init__(self) -> None:
        try:
            import tkinter as tk
        except ImportError as error:
            raise SetupError(
                "A window cannot be shown: this Python has no tkinter.",
                remedy="Install it (on Debian the package python3-tk), or write files with --vis-out-dir.",
            ) from error
        try:
            self._root = tk.Tk()
        except tk.TclError as error:
            raise SetupError(
                f"A window cannot be shown: {error}.",
                remedy="Run it where there is a display (over SSH with -X), or write files with --vis-out-dir.",
            ) from error
        self._label = tk.Label(self._root, borderwidth=0)
        self._label.pack()
        self._open, self._key = True, False
        self._root.protocol("WM_DELETE_WINDOW", self._stop)
        self._root.bind("<Key>", self._pressed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import tkinter as tk

        with contextlib.suppress(tk.TclError):  # closed already
            self._root.destroy()

    def show(self, image: NDArray[np.uint8], *, title: str = "", wait: bool = False) -> bool:
        """Show an image, shrunk to the screen; tell whether the window is still open.

        Args:
            image: ``(h, w, 3)`` uint8, BGR.
            title: Of the window.
            wait: Whether to wait for a key. Escape and q close the window.
        """
        from PIL import Image, ImageTk

        resized = Image.fromarray(image[..., ::-1])
        resized.thumbnail((int(self._root.winfo_screenwidth() * 0.9), int(self._root.winfo_screenheight() * 0.85)))
        photo = ImageTk.PhotoImage(resized, master=self._root)
        self._label.configure(image=photo)
        self._label.image = photo  # type: ignore[attr-defined]  # Tk keeps no reference of its own
        self._root.title(title)
        self._key = False
        self._root.update()
        while wait and self._open and not self._key:
            time.sleep(0.02)
            self._root.update()
        return self._open

    def _pressed(self, event: Any) -> None:
        self._key = True
        if event.keysym in {"Escape", "q"}:
            self._stop()

    def _stop(self) -> None:
        self._open = False
