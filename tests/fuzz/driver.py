"""Seeded mutation of valid files, and the check that a reader answers each one with a value or a sentence.

A reader is registered by a module ``readers_NAME.py`` in this folder; all of them are imported by
:func:`load_readers`. ``test_fuzz_NAME.py`` sweeps a few hundred cases in the suite, ``run.py`` any number of them in
worker processes with bounds of time and memory. A case is known by its reader, seed and index alone.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mutators import Mutator, mutate

from rtmo_deploy.errors import RtmoDeployError

FOLDER = Path(__file__).parent
LONGEST_S = 10.0


@dataclass(frozen=True)
class Reader:
    """A reader of users' files.

    Attributes:
        name: By which ``run.py --reader`` and findings name it.
        suffix: End of the file's name; the file is ``case`` + suffix.
        seeds: Makes the bytes of valid files, the same ones at each call; gets an empty folder to work in.
        read: The reader. Anything that it raises but an ``RtmoDeployError`` is a finding.
        prepare: Writes what must stand beside the file, once for a folder.
        mutators: Edits that know the format, beside those of :mod:`mutators`.
        weight: Its part of a long run's cases beside the others'; less for a slow reader.
    """

    name: str
    suffix: str
    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] | None = None
    mutators: tuple[Mutator, ...] = ()
    weight: float = 1.0


READERS: dict[str, Reader] = {}


def register(reader: Reader) -> None:
    """Add a reader; ``readers_NAME.py`` calls this when it is imported."""
    assert reader.name not in READERS, reader.name
    READERS[reader.name] = reader


@cache
def load_readers() -> dict[str, Reader]:
    """Import every ``readers_*.py`` of this folder, and give all readers by name."""
    for folder in (FOLDER, FOLDER.parent):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    for module in sorted(FOLDER.glob("readers_*.py")):
        importlib.import_module(module.stem)
    return READERS


class Fuzzer:
    """The cases of one reader, in a folder of its own."""

    def __init__(self, name: str, folder: Path, seed: int = 0) -> None:
        self.reader = load_readers()[name]
        self.seed = seed
        self.path = folder / f"case{self.reader.suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        (made := folder / "seeds").mkdir(exist_ok=True)
        self.valid = list(self.reader.seeds(made))
        if self.reader.prepare is not None:
            self.reader.prepare(folder)

    def case(self, index: int) -> bytes:
        """The bytes of a case."""
        rng = random.Random(f"{self.reader.name}:{self.seed}:{index}")
        return mutate(rng.choice(self.valid), rng, self.valid, self.reader.mutators)

    def run(self, data: bytes) -> tuple[str, str]:
        """Read ``data``. Returns ("read" or "refused", "") or ("traceback", the finding)."""
        self.path.write_bytes(data)
        try:
            self.reader.read(self.path)
        except RtmoDeployError as error:
            try:
                str(error).encode()
            except UnicodeEncodeError:
                return "traceback", f"the message cannot be printed: {str(error)!a}"
            return "refused", ""
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of a Rust library is no Exception
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "rtmo_deploy" in frame.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
            return "traceback", f"{type(error).__name__} at {place}: {str(error)[:200]!a}"
        return "read", ""


def sweep(name: str, folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Run ``count`` cases of a reader in this process, for the suite; every seed file itself must be read.

    Returns:
        How many cases were "read" and how many "refused".

    Raises:
        AssertionError: A case ended otherwise, or took longer than 10 s of the processor.
    """
    fuzzer = Fuzzer(name, folder, seed)
    for data in fuzzer.valid:
        assert fuzzer.run(data) == ("read", "")
    counts = {"read": 0, "refused": 0}
    findings: list[str] = []
    for index in range(count):
        start = time.process_time()
        outcome, finding = fuzzer.run(fuzzer.case(index))
        if outcome in counts:
            counts[outcome] += 1
        if (took := time.process_time() - start) > LONGEST_S:
            finding = f"{finding} hang of {took:.0f} s"
        if finding:
            findings.append(f"{name} seed {seed} case {index}: {finding}")
    assert not findings, "\n".join(findings)
    return counts
