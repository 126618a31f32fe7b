"""What ``predict`` found: the rows of its table, its JSON document, and the summary."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.cli.console import stderr
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.plain import counted
from rtmo_deploy.progress import Count
from rtmo_deploy.report.table import Table

if TYPE_CHECKING:
    from rtmo_deploy.media.frame import Event, Frame
    from rtmo_deploy.media.sources import Source


@dataclass
class _Row:
    """What was found in one image, video or stream."""

    size: str
    drawn: list[Path]
    frames: int = 0
    people: int = 0
    strong: int = 0
    best: float | None = None


class Tally:
    """Counts frames, people and events of sources; ``keep`` keeps the people themselves, for the document."""

    def __init__(self, sources: list[Source], draw_thr: float, *, total: int | None, keep: bool) -> None:
        self._kinds = {source.title: source.kind for source in sources}
        self._draw_thr, self._keep, self._total = draw_thr, keep, total
        self._rows: dict[str, _Row] = {}
        self._images: list[dict[str, Any]] = []
        self._frames: list[dict[str, Any]] = []
        self.failures: list[InputDataError] = []
        self._events: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._done, self._started = 0, 0.0

    def event(self, event: Event) -> None:
        """Count an event, from any thread, and note it at once; of the broken frames of a source only the first."""
        with self._lock:
            first = not self._broken[event.source]
            self._events[event.kind] += max(1, event.frames)
            if event.kind == "failed":
                error = event.error
                where = event.source
                known = error if isinstance(error, InputDataError) else InputDataError(event.message, where=where)
                self.failures.append(known)
            elif event.kind == "broken":
                self._broken[event.source] += max(1, event.frames)
        if event.kind != "failed" and (event.kind != "broken" or first):
            stderr().print(f"Note: {event}")

    def add(self, frame: Frame, drawn: list[Path]) -> None:
        """Count a frame with its poses."""
        if self._keep:
            self._remember(frame, drawn)
        poses = frame.poses
        if poses is None:
            return
        height, width = frame.image_hw
        row = self._rows.setdefault(frame.source, _Row(f"{width}x{height}", drawn))
        row.frames += 1
        row.people += len(poses)
        row.strong += int((poses.scores > self._draw_thr).sum())
        row.best = max([row.best or 0.0, *poses.scores[:1].tolist()]) if len(poses) else row.best
        self._started = self._started or time.monotonic()
        self._done += 1

    def _remember(self, frame: Frame, drawn: list[Path]) -> None:
        from rtmo_deploy.media.results import frame_dict

        document = frame_dict(frame)
        if self._kinds[frame.source] == "image":
            sides = {side: document[side] for side in ("width", "height")}
            file = str(drawn[0]) if drawn else None
            self._images.append({"path": frame.source, **sides, "drawn": file, "people": document["people"]})
        else:
            self._frames.append(document)

    def count(self, frame: Frame) -> Count:
        """Progress after a frame."""
        passed = time.monotonic() - self._started
        speed = f", {(self._done - 1) / passed:.1f} frames/s" if self._done > 2 and passed > 0 else ""
        name = Path(frame.source).name or frame.source
        return Count("detecting", self._done, self._total, f"{name}{speed}")

    def broken(self) -> list[InputDataError]:
        """What could not be read; damaged frames of a live source are no failure."""
        remedy = "The results hold what could be decoded. Copy or download the file again."
        return [
            InputDataError(f"{counted(number, 'frame')} damaged or missing.", remedy=remedy, where=source)
            for source, number in self._broken.items()
            if number and self._kinds[source] != "live"
        ]

    def document(self) -> dict[str, Any]:
        """The keys of the JSON document that say what was found."""
        videos = [
            {"path": name, "frames": row.frames, "people": row.people, "drawn": [str(file) for file in row.drawn]}
            for name, row in self._rows.items()
            if self._kinds[name] != "image"
        ]
        events = {kind: self._events[kind] for kind in ("broken", "lost", "reconnected", "dropped")}
        return {"images": self._images, "videos": videos, "frames": self._frames, "events": events}

    def table(self) -> Table:
        """One row an image, video or stream."""
        drawn = any(row.drawn for row in self._rows.values())
        moving = any(self._kinds[name] != "image" for name in self._rows)
        rows = []
        for name, row in self._rows.items():
            best = "-" if row.best is None else f"{row.best:.3f}"
            frames = [str(row.frames)] if moving else []
            files = [" ".join(map(str, row.drawn)) or "-"] if drawn else []
            rows.append((name, row.size, *frames, str(row.people), str(row.strong), best, *files))
        counts = (*(["frames"] if moving else []), "people", f"above {self._draw_thr:g}", "best score")
        heading = "source" if moving else "image"
        return Table("", (heading, "size", *counts, *(["drawn"] if drawn else [])), rows, numbers=False)

    def print_summary(self, why_nobody: str, *, failed: int) -> None:
        """Say on stderr what was found in all and what went wrong, and, where nobody was found, why that may be."""
        images = sum(self._kinds[name] == "image" for name in self._rows)
        frames = sum(row.frames for name, row in self._rows.items() if self._kinds[name] != "image")
        people, strong = (sum(getattr(row, name) for row in self._rows.values()) for name in ("people", "strong"))
        where = " and ".join(counted(number, what) for number, what in ((images, "image"), (frames, "frame")) if number)
        if where:
            text = f", {strong} with a score above {self._draw_thr:g}" if people else f": {why_nobody}"
            stderr().print(f"{people} people in {where}{text}.")
        words = {"broken": "broken frame", "reconnected": "reconnect", "dropped": "skipped frame"}
        trouble = [counted(self._events[kind], word) for kind, word in words.items() if self._events[kind]]
        trouble += [f"{counted(failed, 'source')} not read"] if failed else []
        if trouble:
            stderr().print(f"{', '.join(trouble)}.")
