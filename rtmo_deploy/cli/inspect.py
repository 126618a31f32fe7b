"""``rtmo-deploy inspect``: what a checkpoint or an exported model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.options import IgnoreCfgOption
from rtmo_deploy.file_kind import FileKind
from rtmo_deploy.wanted import likely_kind

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint, an ONNX or OpenVINO (.xml) model, a TensorRT engine, or a published model's name.",
        ),
    ],
    ema: Annotated[bool, typer.Option("--ema", help="Look at the checkpoint's ema_state_dict.")] = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show what a checkpoint or an exported model is, from its content alone.

    An engine is described by the record beside it: nothing is loaded, and neither TensorRT nor a GPU is needed. Neither
    is OpenVINO, for its models.
    """
    from rtmo_deploy.cli.console import facts_table, print_json, print_table

    file = find_model(model, "inspect")
    kind = likely_kind(file)
    if kind is FileKind.OPENVINO:
        facts = _openvino_facts(file)
    elif kind is FileKind.ONNX:
        facts = _onnx_facts(file)
    elif kind is FileKind.ENGINE:
        facts = _engine_facts(file)
    else:
        facts = _checkpoint_facts(file, ema=ema)
    if as_json:
        print_json("inspect", **facts)
        return
    texts = {name.replace("_", " "): _text(value) for name, value in facts.items()}
    if facts.get("differs") == []:
        texts["differs"] = "nothing"
    for name, entry in facts.get("settings", {}).items():
        texts[name.replace("_", " ")] = f"{_text(entry['value'])} ({entry['source']})"
    texts.pop("settings", None)
    print_table(facts_table(texts))


def _checkpoint_facts(file: Path, *, ema: bool) -> dict[str, Any]:
    from rtmo_deploy.model import load_checkpoint

    loaded = load_checkpoint(file, ema=ema)
    contents, spec = loaded.contents, loaded.spec
    return {
        "path": str(file),
        "sha256": loaded.sha256,
        "size": file.stat().st_size,
        **_common(loaded.artifact()),
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


def _onnx_facts(file: Path) -> dict[str, Any]:
    from rtmo_deploy.files import sha256_of
    from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature

    model = load_onnx(file)
    artifact = onnx_artifact(file, model)
    shape = signature(model)
    return {
        "path": str(file),
        "sha256": sha256_of(file),
        "size": file.stat().st_size,
        **_common(artifact),
        "differs": list(artifact.corrected),
        "inputs": [str(spec) for spec in shape.inputs],
        "outputs": [str(spec) for spec in shape.outputs],
        "nodes": len(model.graph.node),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        **_exported(artifact),
    }


def _openvino_facts(file: Path) -> dict[str, Any]:
    from rtmo_deploy.files import sha256_of
    from rtmo_deploy.measure.validate import openvino_findings
    from rtmo_deploy.runtime.openvino_file import openvino_artifact, weights_path
    from rtmo_deploy.runtime.openvino_ir import ir_artifact, read_ir

    ir = read_ir(file)
    # Without metadata nothing tells what it is: the same answer as for anybody who wants to run it.
    artifact = ir_artifact(file, ir) or openvino_artifact(file)
    weights = weights_path(file)
    there = weights.is_file()
    return {
        "path": str(file),
        "sha256": sha256_of(file),
        "size": file.stat().st_size,
        **_common(artifact),
        "weights": weights.name,
        "weights_sha256": sha256_of(weights) if there else None,
        "weights_size": weights.stat().st_size if there else None,
        "differs": openvino_findings(file, ir, artifact),
        "inputs": [str(spec) for spec in ir.inputs],
        "outputs": [str(spec) for spec in ir.outputs],
        "layers": sum(ir.layers.values()),
        "ir_version": ir.version,
        "constants": dict(ir.weights),
        **_exported(artifact),
    }


def _engine_facts(file: Path) -> dict[str, Any]:
    from rtmo_deploy.files import sha256_of
    from rtmo_deploy.measure.validate_engine import engine_findings
    from rtmo_deploy.runtime.engine_file import read_record, sidecar_path

    record = read_record(file)
    described = record.to_dict()
    return {
        "path": str(file),
        "sha256": sha256_of(file),
        "size": file.stat().st_size,
        **_common(record.artifact),
        "record": sidecar_path(file).name,
        "differs": engine_findings(file, record),
        "backend": described["backend"],
        "gpu": described["gpu"],
        "profiles": described["profiles"],
        "inputs": [str(spec) for spec in record.inputs],
        "outputs": [str(spec) for spec in record.outputs],
        "audit": described["precision"],
        "layers": described["layers"],
        "plugin": described["plugin"],
        "onnx_sha256": record.onnx_sha256,
        "options": described["options"],
        "build_seconds": record.seconds,
        "notes": described["notes"],
        **_exported(record.artifact),
    }


def _exported(artifact: Artifact) -> dict[str, Any]:
    return {
        "decode": artifact.to_dict()["decode"],
        "batch": artifact.input.batch,
        "dynamic_hw": artifact.input.dynamic_hw,
        "letterbox": artifact.input.placement,
        "precision": artifact.precision,
        "companion": artifact.companion.name if artifact.companion else None,
        "parents": [vars(parent) for parent in artifact.parents],
        "versions": dict(artifact.versions),
        "verified": artifact.verified,
    }


def _common(artifact: Artifact) -> dict[str, Any]:
    return {
        "kind": artifact.kind.value,
        "producer": artifact.producer,
        "architecture": artifact.architecture,
        "variant": artifact.variant,
        "num_keypoints": len(artifact.skeleton),
        "skeleton": artifact.skeleton.name,
        "skeleton_source": artifact.skeleton.source or None,
        "input_hw": [artifact.input.height, artifact.input.width],
        "domain": artifact.domain,
        "untrained": artifact.untrained,
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
        separator = "x" if all(isinstance(item, int) for item in value) else "; "
        return separator.join(_text(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
