"""Whether an engine fits this machine, and how calls are cut to the sizes that it takes. No GPU is touched here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.runtime.cuda_device import Gpu
    from rtmo_deploy.runtime.engine_file import EngineRecord, Profile, Shape

#: Compute capability from which on a hardware-compatible engine runs, and an RTX engine without explicit targets.
_AMPERE = (8, 0)


def differences(record: EngineRecord, *, version: str, gpu: Gpu) -> list[str]:
    """What of this machine is not as the engine needs it; empty if nothing.

    Args:
        record: The engine's.
        version: Of the installed backend.
        gpu: The GPU that it is to run on.
    """
    found = []
    portable = bool(record.options.get("version_compatible"))
    same = _major(version) == _major(record.version) if portable else version == record.version
    if not same:
        kind = "major version" if portable else "version"
        found.append(f"it was built by {record.backend} {record.version} and needs that {kind}; installed is {version}")
    if record.targets:
        if gpu.compute_capability not in record.targets:
            found.append(
                f"it was built for compute capability {', '.join(record.targets)}; {gpu.name} has "
                f"{gpu.compute_capability}"
            )
    elif record.backend == "tensorrt-rtx" or record.options.get("hardware_compatible"):
        if _capability(gpu.compute_capability) < _AMPERE:
            found.append(f"it runs from compute capability 8.0 on; {gpu.name} has {gpu.compute_capability}")
    elif gpu.compute_capability != record.compute_capability:
        found.append(
            f"it was built on {record.gpu} with compute capability {record.compute_capability}; {gpu.name} has "
            f"{gpu.compute_capability}"
        )
    return found


def _major(version: str) -> str:
    return version.partition(".")[0]


def _capability(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def choose_profile(profiles: Sequence[Profile], shape: Shape) -> int:
    """Index of the profile that takes a size; of several the one tuned for the nearest number of pixels.

    Raises:
        ArtifactError: None does.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.takes(shape)]
    if not fitting:
        raise ArtifactError(
            f"It does not run on an input of {shape}: it was built for {'; or '.join(str(p) for p in profiles)}.",
            remedy="Use another size, or build it with a profile that holds this one (--min, --max).",
        )
    pixels = shape.height * shape.width
    return min(fitting, key=lambda i: abs(profiles[i].usual.height * profiles[i].usual.width - pixels))


def split_batch(count: int, least: int, most: int) -> list[tuple[int, int, int]]:
    """Cut a batch into runs that an engine takes.

    Args:
        count: Pictures, at least 1.
        least: Fewest pictures that the engine takes at a time.
        most: Most of them.

    Returns:
        ``(start, stop, size)`` of each run: pictures ``start`` to ``stop``, filled up to ``size``.
    """
    return [
        (start, min(start + most, count), max(min(start + most, count) - start, least))
        for start in range(0, count, most)
    ]
