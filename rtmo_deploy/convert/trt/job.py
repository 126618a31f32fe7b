"""What the parent asks the building process for: one line of JSON."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A build, in plain values.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        onnx: File to parse.
        plan: File to write the engine to.
        profiles: Least, usual and greatest shape (B, C, H, W) of each.
        targets: Compute capabilities; empty for the backend's own choice.
        timing_cache_in: File to read; None for a new cache.
        timing_cache_out: File to write; None for no timing cache at all.
        version_compatible, hardware_compatible, opt_level, workspace: As in ``BuildOptions``.
        plugin: The graph holds the decode plugin.
    """

    backend: str
    onnx: str
    plan: str
    profiles: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]
    targets: tuple[str, ...] = ()
    timing_cache_in: str | None = None
    timing_cache_out: str | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    opt_level: int | None = None
    workspace: int | None = None
    plugin: bool = False

    def to_json(self) -> str:
        """One line, its end included."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(line)
        data["profiles"] = tuple(tuple(tuple(shape) for shape in profile) for profile in data["profiles"])
        data["targets"] = tuple(data["targets"])
        return cls(**data)

    def remove_temporaries(self) -> None:
        """Remove the files of this job, and their folder if nothing else is in it."""
        folder = Path(self.plan).parent
        # Under another name, so that a thread that is about to write finds no folder any more.
        with contextlib.suppress(OSError):
            folder = folder.rename(folder.with_name(f"{folder.name}.gone"))
        for name in (self.plan, self.timing_cache_out):
            if name:
                (folder / Path(name).name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
