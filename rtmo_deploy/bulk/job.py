"""What a bulk run does with each image, as it travels to the workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtmo_deploy.environment import MAX_PIXELS_VARIABLE
from rtmo_deploy.files import sha256_of
from rtmo_deploy.zoo.locate import IGNORE_CFG, cfg_is_ignored


@dataclass(frozen=True)
class Job:
    """A model and how it is used."""

    model: Path
    opening: dict[str, Any] = field(default_factory=dict)  #: As :class:`rtmo_deploy.RTMO` takes it, without the device.
    device: str = "auto"  #: ``auto``, ``cpu`` or ``cuda``; which GPU is Ray's choice.
    score_thr: float | None = None
    max_people: int | None = None
    batch: int = 8  #: Most images in one run of the network.
    reduce: bool = False
    threads: int = 1  #: CPUs of a worker.
    #: SHA-256 of each file of the model.
    files: dict[str, str] = field(default_factory=dict)
    #: Variables that readers consult.
    environment: dict[str, str] = field(
        default_factory=lambda: {
            name: os.environ[name] for name in (MAX_PIXELS_VARIABLE, IGNORE_CFG) if name in os.environ
        }
    )

    @classmethod
    def of(cls, model: str | os.PathLike[str], **how: Any) -> Job:
        """A job with a model's file, whose bytes every worker checks."""
        from rtmo_deploy.runtime.model_files import files_of

        path = Path(model).absolute()
        files = {str(one): sha256_of(one) for one in files_of(path) if one.is_file()}
        return cls(path, files=files, **how)

    def asked(self) -> dict[str, Any]:
        """What decides the results; device, batch and threads change the last digits at most."""
        options = {name: value for name, value in self.opening.items() if name in {"backend", "input_hw", "precision"}}
        thresholds = {"score_thr": self.score_thr, "max_people": self.max_people}
        read = {"reduce_jpeg": self.reduce, "max_pixels": self.environment.get(MAX_PIXELS_VARIABLE)}
        asked = {**options, **thresholds, **read, "ignore_cfg": cfg_is_ignored(self.environment)}
        return {"model": sorted(self.files.values()), **{name: _plain(value) for name, value in asked.items()}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
