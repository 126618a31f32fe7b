"""Makes a checkpoint's tensors those of a network: names, shapes, types; what only training uses may be absent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.model._pickle_refs import quoted
from rtmo_deploy.model.init import initialise
from rtmo_deploy.model.rtmo import RTMO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rtmo_deploy.model.reader import CheckpointContents
    from rtmo_deploy.model.spec import NetworkSpec

SIGMAS = "head.loss_oks.sigmas"
_STEM = "backbone.stem.conv.conv.weight"
_COUNTER = ".num_batches_tracked"
_TRAINING_ONLY = (SIGMAS, "head.head_module.out_kpt_reg.", "head.dcc.sigma_fc.")
_WHOLE = "The file is incomplete or of a modified network; take it from where it was trained again."


def unwrapped(path: Path, contents: CheckpointContents) -> CheckpointContents:
    """Take off what a wrapper puts before every name, such as Lightning's ``model.``.

    Raises:
        CheckpointError: There are weights under several prefixes, or beside others.
    """
    keys = list(contents.tensors)
    prefixes = [key.removesuffix(_STEM) for key in keys if key.endswith(f".{_STEM}")]
    if _STEM in keys or not prefixes:
        return contents
    others = [key for key in keys if not key.startswith(prefixes[0])]
    if others:
        more = ", ".join(map(quoted, prefixes[1:4]))
        beside = f"also under {more}" if more else f"beside {quoted(others[0])}"
        raise CheckpointError(
            f"The weights of an RTMO model are there under the prefix {quoted(prefixes[0])}, {beside}.",
            remedy="Save the one model's weights alone, without the prefix: "
            "torch.save({'state_dict': model.state_dict()}, ...).",
            where=path,
        )
    return replace(contents, tensors={key.removeprefix(prefixes[0]): value for key, value in contents.tensors.items()})


def fit(path: Path, model: RTMO, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Give a network on the meta device the tensors of a checkpoint.

    Those that only training uses may be absent: they start as a training from scratch starts them (seed 0).

    Returns:
        Names of the absent ones, but counters of batches.

    Raises:
        CheckpointError: A tensor is missing, unknown, or of another shape or type; the message names it.
    """
    expected, found = model.state_dict(), dict(tensors)
    _check(path, found, expected, model.spec)
    absent = [key for key in expected if key not in found]
    if absent:
        fresh = RTMO(model.spec)
        initialise(fresh, 0)
        state = fresh.state_dict()
        found |= {key: state[key] for key in absent}
    for key in expected:
        if key.endswith(_COUNTER):
            found[key] = found[key].to(torch.int64)
    model.load_state_dict(found, strict=True, assign=True)
    return [key for key in absent if not key.endswith(_COUNTER)]


def _check(
    path: Path, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], spec: NetworkSpec
) -> None:
    known = [key for key in expected if key in tensors]
    for key in known:
        stored = tensors[key].dtype
        counts = key.endswith(_COUNTER) and stored != torch.bool and not stored.is_complex
        if not (stored.is_floating_point or counts):
            raise CheckpointError(
                f"The tensor {quoted(key)} is of type {str(stored).removeprefix('torch.')}; a floating-point type is "
                "wanted.",
                remedy="Save the weights as float32 or float16, as they were before they were quantized or converted.",
                where=path,
            )
    findings = [
        _listing("missing", [key for key in expected if key not in tensors and not _training_only(key)]),
        _listing("unknown", [key for key in tensors if key not in expected]),
        _listing(
            "of the wrong shape",
            [
                f"{key} is {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
                for key in known
                if tensors[key].shape != expected[key].shape
            ],
        ),
    ]
    if any(findings):
        raise CheckpointError(
            f"It looks like RTMO with deepen={spec.deepen:g}, widen={spec.widen:g}, {spec.num_keypoints} "
            f"keypoints, but {'; '.join(filter(None, findings))}.",
            remedy=_WHOLE,
            where=path,
        )


def _training_only(key: str) -> bool:
    return key.startswith(_TRAINING_ONLY) or key.endswith(_COUNTER)


def _listing(what: str, items: list[str]) -> str:
    if not items:
        return ""
    shown = ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
    return f"{len(items)} tensor{'s are' if len(items) > 1 else ' is'} {what}: {shown}"
