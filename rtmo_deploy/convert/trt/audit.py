"""Which precision an engine really computes in. The worst engine is the one that was asked for in FP16 and is FP32.

Counted are the convolutions, and beside them the matrix products: twice, in the strongly typed network before the
build, and in the layers of the engine after it. A layer of an engine says which ONNX nodes it computes; of the layers
that name a convolution, the one that holds its weights computes it, and the types of its weights and input are the
types it computes in. Other layers may hold larger constants for it: of a static input, the channels that pad it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.convert.trt.layers import normal_type
from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.convert.trt.layers import EngineLayer

#: Share of convolutions that a half-precision model has in it: islands of FP32 are small.
MIN_SHARE = 0.5
_FLOATS = frozenset({"fp32", "fp16", "bf16"})
_NETWORK = "typed network before the build"
#: Operators that are counted, as ONNX and as TensorRT call them.
_COUNTED = {"Conv": "convolutions", "MatMul": "matrix_products", "Gemm": "matrix_products"}
_TYPED = {"CONVOLUTION": "convolutions", "MATRIX_MULTIPLY": "matrix_products"}


@dataclass(frozen=True)
class Audit:
    """What an engine computes in.

    Attributes:
        asked: What was asked for.
        how: ``engine inspector``, ``layer table of the build log``, or the typed network.
        network: ``{"convolutions": {"fp16": 70}, ...}`` of the typed network.
        engine: The same of the engine's layers; ``unseen`` counts those no layer names. Empty without a layer table.
        layers: Layers by kind and type: of the engine where it is known, else of the network.
    """

    asked: str
    how: str
    network: Mapping[str, Mapping[str, int]]
    engine: Mapping[str, Mapping[str, int]]
    layers: Mapping[str, Mapping[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the layers."""
        return {
            "asked": self.asked,
            "how": self.how,
            "network": {key: dict(value) for key, value in self.network.items()},
            "engine": {key: dict(value) for key, value in self.engine.items()},
        }

    def sentence(self) -> str:
        """Such as ``70 of 78 convolutions in fp16``, or ``60 of 78 convolutions in int8, 12 in fp16``."""
        counts = (self.engine or self.network).get("convolutions", {})
        first, *around = self.asked.split("+")
        said = f"{counts.get(first, 0)} of {sum(counts.values())} convolutions in {first}"
        return ", ".join([said, *(f"{counts.get(half, 0)} in {half}" for half in around)])


def audit_precision(
    asked: str,
    operators: Mapping[str, str],
    network: Sequence[Mapping[str, Any]],
    layers: Sequence[EngineLayer],
    *,
    source: str,
    where: Path,
    weights: Mapping[str, tuple[int, ...]] | None = None,
) -> Audit:
    """Count what computes in which type, and refuse an engine that is not what was asked for.

    Args:
        asked: ``fp32``, ``fp16``, ``bf16``, ``int8``, or ``int8+fp16`` and ``int8+bf16``: half around the 8 bits.
        operators: Operator of each named ONNX node.
        network: Layers of the typed network: ``name``, ``kind``, ``inputs`` (names), ``outputs`` (name and type).
        layers: Of the engine; empty if they are not known.
        source: Where the engine's layers were read.
        where: What errors name.
        weights: Shape of each named convolution's weights, ``(O, I, ...)``.

    Raises:
        ArtifactError: The engine, or the network, computes in something else.
    """
    before = _network_types(network)
    after = _engine_types(operators, layers, weights or {})
    seen = sum(kind != "unseen" for kind in after.get("convolutions", {}).values())
    trusted = bool(layers) and 2 * seen >= len(after.get("convolutions", {}))
    audit = Audit(
        asked=asked,
        how=source if trusted else _NETWORK,
        network=_counts(before),
        engine=_counts(after) if trusted else {},
        layers=_layer_kinds(layers) if trusted else _network_kinds(network),
    )
    _judge(asked, before, audit.network, "network", where)
    if trusted:
        _judge(asked, after, audit.engine, "engine", where)
        for kind in asked.split("+"):
            _require_kept(kind, before["convolutions"], after["convolutions"], where)
    return audit


def _network_types(network: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """``{"convolutions": {name: type}, ...}`` of the typed network."""
    types = {name: normal_type(dtype) for layer in network for name, dtype in layer["outputs"]}
    producer = {name: layer for layer in network for name, _ in layer["outputs"]}
    found: dict[str, dict[str, str]] = {group: {} for group in _TYPED.values()}
    for layer in network:
        group = _TYPED.get(layer["kind"])
        if group is None:
            continue
        sources = [producer.get(name) for name in layer["inputs"][:2]]
        quantised = [s for s in sources if s is not None and s["kind"] == "DEQUANTIZE"]
        if len(quantised) == 2:
            # Both sides come out of a dequantisation: it computes in what goes into that.
            kinds = {types.get(s["inputs"][0], "int8") for s in quantised}
            found[group][layer["name"]] = kinds.pop() if len(kinds) == 1 else "mixed"
        else:
            found[group][layer["name"]] = normal_type(layer["outputs"][0][1])
    return found


def _engine_types(
    operators: Mapping[str, str], layers: Sequence[EngineLayer], weights: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, str]]:
    naming: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        for name in layer.onnx:
            naming.setdefault(name, []).append(layer)
    found: dict[str, dict[str, str]] = {group: {} for group in _TYPED.values()}
    for name, operator in operators.items():
        if operator in _COUNTED:
            found[_COUNTED[operator]][name] = _computed_in(
                naming.get(name, []), weighted=operator == "Conv", weight=weights.get(name, ())
            )
    return found


def _computed_in(layers: Sequence[EngineLayer], *, weighted: bool, weight: tuple[int, ...]) -> str:
    """Type that an ONNX node computes in, given the layers that name it."""

    def holds(layer: EngineLayer) -> bool:  # the input channels may be padded
        return any((c.dims[:1], c.dims[2:]) == (weight[:1], weight[2:]) for c in layer.constants if len(c.dims) > 2)

    def largest(layer: EngineLayer) -> int:
        return max((constant.volume for constant in layer.constants), default=0)

    if not layers:
        return "unseen"
    # With several profiles it is there once for each.
    layers = [layer for layer in layers if holds(layer)] or layers
    most = max(map(largest, layers))
    return _join({_layer_type(layer, weighted=weighted) for layer in layers if largest(layer) == most})


def _layer_type(layer: EngineLayer, *, weighted: bool) -> str:
    inputs = {t.dtype for t in layer.inputs} - {"int32", "int64", "bool", "unknown"}
    if not layer.constants:
        return "unseen" if weighted or not inputs else _join(inputs)
    weights = max(layer.constants, key=lambda constant: constant.volume).dtype
    # A cast of the input may be part of the layer. Integers in the weights alone are another thing: they are turned
    # into the input's type and then multiplied.
    if weights in inputs or weights in _FLOATS or not inputs:
        return weights
    return _join(inputs | {weights})


def _join(types: set[str]) -> str:
    return types.copy().pop() if len(types) == 1 else "mixed " + "/".join(sorted(types))


def _counts(types: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, int]]:
    return {group: dict(sorted(Counter(named.values()).items())) for group, named in types.items()}


def _layer_kinds(layers: Sequence[EngineLayer]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for layer in layers:
        dtype = layer.outputs[0].dtype if layer.outputs else "none"
        found.setdefault(layer.kind, Counter())[dtype] += 1
    return {kind: dict(sorted(counts.items())) for kind, counts in sorted(found.items())}


def _network_kinds(network: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for layer in network:
        dtype = normal_type(layer["outputs"][0][1]) if layer["outputs"] else "none"
        found.setdefault(layer["kind"], Counter())[dtype] += 1
    return {kind: dict(sorted(counts.items())) for kind, counts in sorted(found.items())}


def _judge(
    asked: str,
    types: Mapping[str, Mapping[str, str]],
    counts: Mapping[str, Mapping[str, int]],
    what: str,
    where: Path,
) -> None:
    convolutions = counts["convolutions"]
    total = sum(convolutions.values())
    first, *around = asked.split("+")
    right = convolutions.get(first, 0)
    others = [f"{count} in {kind}" for kind, count in convolutions.items() if kind not in {first, "unseen"}]
    enough = {"fp32": not others, "int8": right > 0}.get(first, right >= MIN_SHARE * total)
    # Half around 8 bits: of what is left there is something in it.
    enough = enough and all(any(group.get(half) for group in counts.values()) for half in around)
    if right and enough:
        return
    wrong = next((name for name, kind in types["convolutions"].items() if kind != asked), "none")
    raise ArtifactError(
        f"{asked} was asked for, and of the {total} convolutions of the {what} {right} compute in it "
        f"({', '.join(others) or 'others: none'}; for one, {wrong}). The engine is not written.",
        remedy="The types are those of the ONNX graph: cast it with 'rtmo-deploy cast', quantise it with "
        "'rtmo-deploy quantize', or ask for what it is.",
        where=where,
    )


def _require_kept(asked: str, before: Mapping[str, str], after: Mapping[str, str], where: Path) -> None:
    """Every convolution that the network computes in a type, the engine must compute in it."""
    if asked == "fp32":
        return
    meant = sum(kind == asked for kind in before.values())
    kept = sum(kind in {asked, "unseen"} for kind in after.values())
    if kept < meant:
        others = [name for name, kind in after.items() if kind not in {asked, "unseen"}]
        wrong = next((name for name in others if before.get(name) == asked), others[0])
        raise ArtifactError(
            f"{meant} convolutions of the network are of {asked}, and only {kept} of the engine: {wrong} computes in "
            f"{after[wrong]}. The engine is not written.",
            remedy="The backend has no kernel of this type for it; try another backend, or leave that layer in fp16.",
            where=where,
        )
