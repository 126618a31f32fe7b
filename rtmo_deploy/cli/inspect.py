"""``rtmo-deploy inspect``: what a checkpoint or an exported model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.console import print_facts, print_json
from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.options import IgnoreCfgOption, JsonOption
from rtmo_deploy.file_kind import FORMATS, Format, likely_kind

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint, an ONNX or OpenVINO (.xml) model, a TensorRT engine, an address (https://, hf://), or "
            "a published model's name.",
        ),
    ],
    ema: Annotated[bool, typer.Option("--ema", help="Look at the checkpoint's ema_state_dict.")] = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint or an exported model is, from its content alone.

    An engine is described by the record beside it: nothing is loaded, and neither TensorRT nor a GPU is needed. Neither
    is OpenVINO, for its models.
    """
    file = find_model(model, "inspect")
    known = FORMATS.get(likely_kind(file))
    facts = _checkpoint_facts(file, ema=ema) if known is None else Format.load(known.inspector)(file)
    if as_json:
        print_json("inspect", **facts)
        return
    texts = {name.replace("_", " "): _text(value) for name, value in facts.items()}
    if facts.get("differs") == []:
        texts["differs"] = "nothing"
    for name, entry in facts.get("settings", {}).items():
        texts[name.replace("_", " ")] = f"{_text(entry['value'])} ({entry['source']})"
    texts.pop("settings", None)
    print_facts(texts)


def _checkpoint_facts(file: Path, *, ema: bool) -> dict[str, Any]:
    from rtmo_deploy.model import load_checkpoint

    loaded = load_checkpoint(file, ema=ema)
    contents, spec = loaded.contents, loaded.spec
    return {
        **_common(file, loaded.artifact(), loaded.sha256),
        "variant_known_by": loaded.variant and loaded.variant.known_by,
        "settings": loaded.taken.listing(),
        "notes": list(loaded.taken.notes),
        "deepen": spec.deepen,
        "widen": spec.widen,
        "hidden_dim": spec.hidden_dim,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "weights_from": contents.source,
        "has_ema": contents.has_ema,
        "stored_dtype": contents.stored_dtype,
        "absent": list(loaded.absent),
        "meta": contents.meta,
    }


def onnx_facts(file: Path) -> dict[str, Any]:
    """What ``inspect`` shows of an ONNX model."""
    from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature

    model = load_onnx(file)
    artifact, shape = onnx_artifact(file, model), signature(model)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    own = {"differs": list(artifact.corrected), **_tensors(shape), "nodes": len(model.graph.node), "opset": opsets}
    return {**_common(file, artifact), **own, **_exported(artifact)}


def openvino_facts(file: Path) -> dict[str, Any]:
    """What ``inspect`` shows of an OpenVINO model, which is read without OpenVINO."""
    from rtmo_deploy.files import sha256_of
    from rtmo_deploy.measure.validate import openvino_findings
    from rtmo_deploy.runtime.openvino_file import ir_artifact, openvino_artifact, read_ir, weights_path

    ir = read_ir(file)
    # Without metadata nothing tells what it is: the same answer as for anybody who wants to run it.
    artifact = ir_artifact(file, ir) or openvino_artifact(file)
    weights = weights_path(file)
    there = weights.is_file()
    return {
        **_common(file, artifact),
        "weights": weights.name,
        "weights_sha256": sha256_of(weights) if there else None,
        "weights_size": weights.stat().st_size if there else None,
        "differs": openvino_findings(file, ir, artifact),
        **_tensors(ir),
        "layers": sum(ir.layers.values()),
        "ir_version": ir.version,
        "constants": dict(ir.weights),
        **_exported(artifact),
    }


def engine_facts(file: Path) -> dict[str, Any]:
    """What ``inspect`` shows of an engine: its record, for nothing is loaded."""
    from rtmo_deploy.measure.validate_engine import engine_findings
    from rtmo_deploy.runtime.engine_file import read_record, sidecar_path

    record = read_record(file)
    described = record.to_dict()
    return {
        **_common(file, record.artifact),
        "record": sidecar_path(file).name,
        "differs": engine_findings(file, record),
        **{name: described[name] for name in ("backend", "gpu", "profiles")},
        **_tensors(record),
        "audit": described["precision"],
        "layers": described["layers"],
        "plugin": described["plugin"],
        "onnx_sha256": record.onnx_sha256,
        "options": described["options"],
        "build_seconds": record.seconds,
        "notes": described["notes"],
        **_exported(record.artifact),
    }


def _common(file: Path, artifact: Artifact, sha256: str | None = None) -> dict[str, Any]:
    from rtmo_deploy.files import sha256_of

    described = artifact.skeleton.to_dict()
    return {
        "path": str(file),
        "sha256": sha256 or sha256_of(file),
        "size": file.stat().st_size,
        "kind": artifact.kind.value,
        "producer": artifact.producer,
        "architecture": artifact.architecture,
        "variant": artifact.variant,
        "num_keypoints": len(artifact.skeleton),
        "skeleton": artifact.skeleton.name,
        "skeleton_source": artifact.skeleton.source or None,
        **{name: described[name] for name in ("keypoints", "edges", "flip_pairs", "sigmas")},
        "input_hw": [artifact.input.height, artifact.input.width],
        "domain": artifact.domain,
        "untrained": artifact.untrained,
    }


def _tensors(described: Any) -> dict[str, list[str]]:
    return {name: [str(spec) for spec in getattr(described, name)] for name in ("inputs", "outputs")}


def _exported(artifact: Artifact) -> dict[str, Any]:
    return {
        "decode": artifact.to_dict()["decode"],
        "batch": artifact.input.batch,
        "dynamic_hw": artifact.input.dynamic_hw,
        "letterbox": artifact.input.placement,
        "precision": artifact.precision,
        "target": artifact.target,
        "companion": artifact.companion.name if artifact.companion else None,
        "parents": [vars(parent) for parent in artifact.parents],
        "versions": dict(artifact.versions),
        "verified": artifact.verified,
    }


def _text(value: Any) -> str:
    """A JSON value as a person would write it in one cell."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        if isinstance(value.get("ok"), bool):
            return "passed" if value["ok"] else "failed"
        items = {key: _text(item) for key, item in value.items() if item is not None}
        states = set(items.values())
        if states and states <= {"passed", "failed"}:
            return "failed" if "failed" in states else "passed"
        return ", ".join(f"{key} {text}" for key, text in items.items()) or "-"
    if isinstance(value, list):
        if value and all(isinstance(item, list) for item in value):
            return "; ".join("-".join(_text(part) for part in item) for item in value)
        separator = "x" if all(isinstance(item, int) for item in value) else "; "
        return separator.join(_text(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
