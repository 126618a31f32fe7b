"""Checks a parsed ONNX model before anything is computed of it, and reads the weights that it keeps in other files.

ONNX's own readers answer a damaged or hostile model with exceptions of many kinds, or by asking for the memory that it
names. Here sizes are compared with the bytes that are there, and a ValueError says what is wrong.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import onnx

from rtmo_deploy.files import UnreadableError, open_regular
from rtmo_deploy.runtime.contract import DEFAULT_SIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: Bytes that one tensor, and all tensors in other files together, may have: no larger model can be written.
MAX_BYTES = 2**31 - 1
#: Numbers in the largest intermediate tensor, whatever the input; and as a multiple of the input's.
MAX_NUMBERS, MAX_TIMES_INPUT = 2**26, 64
#: What no RTMO has, and what a file could make run for ever.
_ENDLESS = {"Loop", "Scan", "SequenceMap"}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def load_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Read the tensors that a model keeps in files in or below ``folder`` into it, or raise ValueError."""
    total = 0
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        size = _size(tensor)
        total += size
        if total > MAX_BYTES:
            raise ValueError("they have more than 2 GiB")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        tensor.raw_data = _read(folder, entries, size, tensor.name)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _read(folder: Path, entries: dict[str, str], size: int, name: str) -> bytes:
    location = entries.get("location", "")
    parts = PurePosixPath(location.replace("\\", "/"))
    if not parts.name or parts.is_absolute() or ".." in parts.parts or ":" in location:
        raise ValueError(f"{location[:100]!r} is not the name of a file beside it")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise ValueError(f"the place of {name[:100]!r} in {location[:100]!r} is not a number") from None
    path = folder / parts
    with open_regular(path) as stream:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UnreadableError(f"{location[:100]!r} leads out of the model's folder")
        if length != size or offset < 0 or offset + size > stream.seek(0, 2):
            raise ValueError(f"{location[:100]!r} does not hold the {size:,} bytes of {name[:100]!r}")
        stream.seek(offset)
        return stream.read(size)


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files that hold weights of a model, or ValueError."""
    entries = (entry for tensor in _tensors(model.graph) for entry in tensor.external_data)
    return [entry.value for entry in entries if entry.key == "location"]


def check_graph(model: onnx.ModelProto) -> None:
    """Check sizes and types of tensors and the names that connect nodes.

    ValueError also for what no RTMO has: loops, sparse tensors, functions, no outputs.
    """
    graph = model.graph
    if model.functions:
        raise ValueError("it has functions of its own")
    if not graph.output:
        raise ValueError("it has no outputs")
    for value in (*graph.input, *graph.output):
        if value.type.WhichOneof("value") not in {"tensor_type", None}:
            raise ValueError(f"{value.name[:100]!r} is not a tensor")
        if any(not 0 <= dim.dim_value <= MAX_NUMBERS for dim in value.type.tensor_type.shape.dim):
            raise ValueError(f"{value.name[:100]!r} has a side that is negative or too large")
    for tensor in _tensors(graph):
        _check_tensor(tensor)
    _check_names(graph, frozenset(), _opsets(model))
    _check_sizes(model)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH or attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    if graph.sparse_initializer:
        raise ValueError("it has sparse tensors")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise ValueError("it has sparse tensors")
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
    for inner in _subgraphs(graph.node):
        yield from _tensors(inner)


def _size(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor has by its type and sides."""
    name = tensor.name[:100]
    numeric = onnx.helper.get_all_tensor_dtypes() - {
        onnx.TensorProto.STRING,
        onnx.TensorProto.COMPLEX64,
        onnx.TensorProto.COMPLEX128,
    }
    if tensor.data_type not in numeric:
        raise ValueError(f"the tensor {name!r} has the type {tensor.data_type}, which is not one of numbers")
    if any(side < 0 for side in tensor.dims):
        raise ValueError(f"the tensor {name!r} has a negative side")
    size = math.ceil(math.prod(tensor.dims) * _bits(tensor.data_type) / 8) if 0 not in tensor.dims else 0
    if size > MAX_BYTES:
        raise ValueError(f"the tensor {name!r} has {'x'.join(map(str, tensor.dims[:8]))} numbers")
    return size


def _bits(kind: int) -> int:
    name = onnx.TensorProto.DataType.Name(kind)
    if "INT4" in name or "FLOAT4" in name:
        return 4
    return 2 if "INT2" in name else int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize) * 8


def _check_tensor(tensor: onnx.TensorProto) -> None:
    size = _size(tensor)
    if tensor.HasField("segment"):
        raise ValueError(f"the tensor {tensor.name[:100]!r} is a part of another")
    typed = sum(len(getattr(tensor, field)) for field in _FIELDS)
    if tensor.HasField("raw_data"):
        fits = len(tensor.raw_data) == size and not typed
    else:
        there = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        numbers = math.prod(tensor.dims)
        fits = there == typed and there in ({numbers} if _bits(tensor.data_type) >= 8 else {numbers, size})
    if not fits:
        raise ValueError(f"the tensor {tensor.name[:100]!r} has not the {size:,} bytes that its type and sides say")


def _check_names(graph: onnx.GraphProto, outer: frozenset[str], opsets: Mapping[str, int]) -> None:
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for names in ([value.name for value in graph.input], [tensor.name for tensor in graph.initializer]):
        if len(names) != len(set(names)) or "" in names:
            raise ValueError("two of its inputs or tensors have the same name, or one has none")
    for node in graph.node:
        if node.op_type in _ENDLESS:
            raise ValueError(f"it has a {node.op_type}, which no RTMO has and which could run for ever")
        _check_operator(node, opsets)
        for name in node.input:
            if name and name not in known and name not in outer:
                raise ValueError(f"{name[:100]!r} is used before it is computed")
        for inner in _subgraphs([node]):
            _check_names(inner, outer | known, opsets)
        made = [name for name in node.output if name]
        twice = known.intersection(made)
        if twice or len(made) != len(set(made)):
            raise ValueError(f"{(min(twice) if twice else made[0])[:100]!r} is computed twice")
        known.update(made)
    for value in graph.output:
        if value.name not in known and value.name not in outer:
            raise ValueError(f"its output {value.name[:100]!r} is not computed")


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise ValueError(
            f"its IR version is {model.ir_version}; this ONNX {onnx.__version__} knows 3 to {onnx.IR_VERSION}"
        )
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opsets.get("", 0) <= newest:
        raise ValueError(f"it is of opset {opsets.get('')}; this ONNX {onnx.__version__} knows 1 to {newest}")
    return opsets


def _check_operator(node: onnx.NodeProto, opsets: Mapping[str, int]) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    kind = f"{node.name[:100]} ({node.op_type[:100]})"
    if domain not in opsets:
        raise ValueError(f"its node {kind} is of the domain {domain[:100]!r}, of which it has no operator set")
    if domain:
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[""])
    except (onnx.defs.SchemaError, TypeError):  # a TypeError: its name is not UTF-8
        raise ValueError(f"no operator of opset {opsets['']} is its node {kind}") from None
    if not (
        schema.min_input <= len(node.input) <= schema.max_input
        and schema.min_output <= len(node.output) <= schema.max_output
    ):
        raise ValueError(f"its node {kind} has {len(node.input)} inputs and {len(node.output)} outputs")


def takes(model: onnx.ModelProto, sides: tuple[int, int, int]) -> bool:
    """Whether a graph's shapes fit together for an input of this batch, height and width, as far as ONNX tells."""
    return _infer(model, sides) is not None


def _check_sizes(model: onnx.ModelProto) -> None:
    """Refuse intermediate tensors that are far larger than the input."""
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in weights]
    fixed = [dim.dim_value for dim in shapes[0]] if shapes and len(shapes[0]) == 4 else [0] * 4
    sides = (fixed[0] or 1, fixed[2] or DEFAULT_SIDE, fixed[3] or DEFAULT_SIDE)
    inferred = _infer(model, sides, strict=False)
    most = max(MAX_NUMBERS, MAX_TIMES_INPUT * 3 * math.prod(sides))
    for value in () if inferred is None else (*inferred.graph.value_info, *inferred.graph.output):
        shape = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in value.type.tensor_type.shape.dim]
        if math.prod(shape) > most or any(side < 0 for side in shape):
            raise ValueError(f"its tensor {value.name[:100]!r} would have {'x'.join(map(str, shape[:8]))} numbers")


def _infer(model: onnx.ModelProto, sides: tuple[int, int, int], *, strict: bool = True) -> Any:
    """The graph, without its large weights, and all shapes that ONNX infers; None where they do not fit."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = "shapes"
    bare.graph.node.extend(model.graph.node)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            put = bare.graph.input.add()
            put.CopyFrom(value)
            dims = put.type.tensor_type.shape.dim
            for dim, side in zip(dims, (sides[0], 3, *sides[1:]) if len(dims) == 4 else (), strict=False):
                dim.dim_value = side
    for value in model.graph.output:
        bare.graph.output.add(name=value.name).type.tensor_type.elem_type = value.type.tensor_type.elem_type
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= 4096:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        return onnx.shape_inference.infer_shapes(bare, data_prop=True, strict_mode=strict)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, TypeError):
        return None
