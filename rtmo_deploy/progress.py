"""Progress messages with a count, from which the command line makes a bar or a line of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Count(str):
    """How many of how many are done; a text, so that it may be given wherever a progress message is taken."""

    __slots__ = ("detail", "done", "show", "total", "what")
    what: str  #: What is being done; a bar starts anew when it changes.
    done: int  #: How many are done.
    total: int | None  #: How many there are; None where that is not known.
    detail: str  #: What is being done at the moment, such as a file's name.
    show: Callable[[int], str]  #: How a number is written.

    def __new__(
        cls, what: str, done: int, total: int | None, detail: str = "", *, show: Callable[[int], str] = str
    ) -> Self:
        """The text that it is to whoever takes it for one."""
        of = show(done) if total is None else f"{show(done)} of {show(total)}"
        made = super().__new__(cls, f"{what}: {of}" + (f" ({detail})" if detail else ""))
        made.what, made.done, made.total, made.detail, made.show = what, done, total, detail, show
        return made

    def under(self, head: str) -> Self:
        """The same below a heading."""
        return type(self)(f"{head}: {self.what}", self.done, self.total, self.detail, show=self.show)
