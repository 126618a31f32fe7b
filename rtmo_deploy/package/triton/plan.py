"""What a repository's configurations say, from a model and the options; models that Triton cannot run are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rtmo_deploy.artifact import DecodeMode, Target
from rtmo_deploy.data.images import max_pixels_allowed
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import FORMATS, Kind
from rtmo_deploy.runtime.backends import parse_device
from rtmo_deploy.runtime.engine_file import Shape, choose_profile, read_record
from rtmo_deploy.runtime.thresholds import decode_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.artifact import Artifact, DecodeContract
    from rtmo_deploy.package.triton.options import TritonOptions
    from rtmo_deploy.runtime.contract import TensorSpec
    from rtmo_deploy.runtime.engine_file import EngineRecord, Profile

#: The kind of file that each of Triton's backends runs, and the name that it looks for.
BACKENDS = {
    "onnxruntime": (Kind.ONNX, "model.onnx"),
    "openvino": (Kind.OPENVINO, "model.xml"),
    "tensorrt": (Kind.ENGINE, "model.plan"),
    "python": (Kind.ONNX, "model.onnx"),
}
#: Images in one run, where the model leaves it open.
DEFAULT_BATCH = 8


class Entry(NamedTuple):
    """A tensor in a configuration, its dimensions without the batch."""

    name: str
    type: str
    dims: list[int]
    optional: bool = False


@dataclass(frozen=True)
class Plan:
    """What the templates read."""

    artifact: Artifact
    options: TritonOptions
    backend: str  #: Key of :data:`BACKENDS`.
    gpu: int | None  #: Index of the GPU; None for the CPU.
    inputs: list[Entry]  #: The network's tensors, exactly as its graph declares them: backends compare them.
    outputs: list[Entry]
    height: int  #: Pixels that images are letterboxed to.
    width: int
    max_batch: int  #: Most images in a run; 0 where Triton does not batch for this network.
    preferred: list[int]  #: Batch sizes that the batcher tries to reach.
    lead: list[int]  #: The batch's dimension, written out where Triton does not batch.
    rows: int | None  #: Rows that the graph always puts out; None where they depend on the image.
    decode: DecodeContract
    exact: bool  #: ONNX Runtime must not fuse the pairs of quantisation.
    max_pixels: int  #: Larger images are refused before they are decoded.
    record: EngineRecord | None  #: Of an engine.
    profile: int | None  #: Of an engine with several.
    preprocessors: int = 2  #: Instances: one decodes while the other letterboxes.

    @property
    def input(self) -> str:
        """Name of the network's input."""
        return self.inputs[0].name

    @property
    def images(self) -> list[Entry]:
        """What the pipeline takes: one of the two."""
        return [Entry("image", "STRING", [1], True), Entry("pixels", "UINT8", [-1, -1, 3], True)]

    @property
    def placed(self) -> list[Entry]:
        """What the preprocessing puts out."""
        return [Entry("input", "FP32", [3, self.height, self.width]), Entry("transform", "FP64", [5])]

    @property
    def rows_in(self) -> list[Entry]:
        """What the postprocessing takes."""
        joints = len(self.artifact.skeleton)
        dims = {"dets": [-1, 5], "network_keypoints": [-1, joints, 3]}
        return [*(Entry(name, "FP32", one) for name, one in dims.items()), Entry("transform", "FP64", [5])]

    @property
    def people(self) -> list[Entry]:
        """What the pipeline puts out."""
        joints = len(self.artifact.skeleton)
        dims = {"boxes": [-1, 4], "scores": [-1], "keypoints": [-1, joints, 2], "keypoint_scores": [-1, joints]}
        return [Entry("num_people", "INT32", [1]), *(Entry(name, "FP32", one) for name, one in dims.items())]

    @property
    def people_names(self) -> dict[str, str]:
        """Names of :attr:`people`, as a step's map."""
        return {entry.name: entry.name for entry in self.people}

    @property
    def warm_batches(self) -> list[int]:
        """Batch sizes of the first runs."""
        return sorted({1, max(1, self.max_batch)})

    @property
    def file_name(self) -> str:
        """Name of the model's file in the repository."""
        return BACKENDS[self.backend][1]


def plan_for(artifact: Artifact, options: TritonOptions) -> Plan:
    """How Triton runs a model.

    Raises:
        ArtifactError: Triton cannot run this model.
        UsageError: An option does not fit the model.
    """
    backend = _backend(artifact, options.backend)
    gpu = _gpu(backend, options.device)
    record = _record(artifact)
    if artifact.decode.mode is DecodeMode.RAW or (
        artifact.decode.mode is DecodeMode.PLUGIN and artifact.kind is not Kind.ENGINE
    ):
        raise ArtifactError(
            f"Its graph is of --decode {artifact.decode.mode}, which Triton cannot finish.",
            remedy="Export it with --decode onnx or fixed.",
            where=artifact.path,
        )
    exact = _exact(artifact, gpu)
    if exact and backend == "onnxruntime":
        raise ArtifactError(
            "Its INT8 was chosen for another runtime, and Triton's ONNX Runtime backend cannot be told to compute it "
            "as written.",
            remedy="Use --backend python, or quantise it with --target onnxruntime.",
            where=artifact.path,
        )
    height, width = _size(artifact, options.imgsz)
    profiles = () if record is None else record.profiles
    profile = _profile(profiles, height, width) if profiles else None
    limits = None if profile is None else profiles[profile]
    most = _max_batch(artifact, backend, options.max_batch, limits)
    source, outputs = _tensors(artifact, record, backend)
    kept = {name: getattr(options, name) for name in ("score_thr", "nms_thr", "kpt_thr", "max_people")}
    tuned = () if limits is None else (limits.opt.batch,)
    return Plan(
        artifact=artifact,
        options=options,
        backend=backend,
        gpu=gpu,
        inputs=[_entry(source, batched=most > 0)],
        outputs=[_entry(spec, batched=most > 0) for spec in outputs],
        height=height,
        width=width,
        max_batch=most,
        preferred=sorted({size for size in (most // 2, most, *tuned) if 0 < size <= most}),
        lead=[] if most else [1],
        rows=outputs[0].fixed[1],
        decode=decode_for(artifact, **kept),
        exact=exact,
        max_pixels=max_pixels_allowed(),
        record=record,
        profile=profile if len(profiles) > 1 else None,
    )


def _profile(profiles: Sequence[Profile], height: int, width: int) -> int:
    """Index of the profile for images of this size, with the smallest batch that any takes."""
    fewest = min((profile.min.batch for profile in profiles if profile.holds(height, width)), default=1)
    return choose_profile(profiles, Shape(fewest, height, width))


def _backend(artifact: Artifact, wanted: str) -> str:
    fitting = [name for name, (kind, _) in BACKENDS.items() if kind is artifact.kind]
    if wanted == "auto":
        return fitting[0]
    if wanted not in fitting:
        kind = BACKENDS[wanted][0]
        raise UsageError(
            f"Triton's backend {wanted} runs {kind.article}, and this is {artifact.kind.article}.",
            remedy=f"Use --backend {' or '.join(fitting)}, or make {kind.article} of it.",
            where=artifact.path,
        )
    return wanted


def _gpu(backend: str, device: str) -> int | None:
    place = ("cuda:0" if backend == "tensorrt" else "cpu") if device == "auto" else parse_device(device)
    only = {"tensorrt": "a GPU", "openvino": "the CPU"}.get(backend)
    if (backend == "tensorrt" and place == "cpu") or (backend == "openvino" and place != "cpu"):
        raise UsageError(f"Triton's backend {backend} runs on {only} only.", remedy="Leave --device away.")
    return None if place == "cpu" else int(place.partition(":")[2])


def _record(artifact: Artifact) -> EngineRecord | None:
    if artifact.kind is not Kind.ENGINE:
        return None
    record = read_record(artifact.path)
    finding = None
    if record.backend != "tensorrt":
        finding = f"It is an engine of {record.backend}, which Triton does not run."
    elif record.plugin is not None and record.plugin.get("form") != "aot":
        finding = "Its decode plugin is a Python class, which Triton does not have."
    if finding is not None:
        remedy = "Build one with TensorRT from a model of --decode fixed."
        raise ArtifactError(finding, remedy=remedy, where=artifact.path)
    return record


def _exact(artifact: Artifact, gpu: int | None) -> bool:
    """Whether ONNX Runtime on a CPU must compute an INT8 graph as it is written."""
    eight_bit, _, mixed = artifact.precision.partition("+")
    on_cpu = artifact.kind is Kind.ONNX and gpu is None
    return on_cpu and eight_bit == "int8" and (bool(mixed) or artifact.target is not Target.ONNXRUNTIME)


def _size(artifact: Artifact, wanted: tuple[int, int] | None) -> tuple[int, int]:
    contract = artifact.input
    own = (contract.height, contract.width)
    if wanted not in {None, own} and not contract.dynamic_hw:
        raise UsageError(
            f"{artifact.path.name} takes images of {own[0]}x{own[1]} only.",
            remedy="Leave --imgsz away, or export the model without --static.",
        )
    return wanted or own


def _max_batch(artifact: Artifact, backend: str, wanted: int | None, limits: Profile | None) -> int:
    """Most images in a run; 0 where Triton does not batch."""
    fixed = artifact.input.batch
    if limits is not None and limits.min.batch == limits.max.batch:
        fixed = limits.max.batch
    fewest = fixed or (1 if limits is None else limits.min.batch)
    if fewest > 1 and backend != "python":
        raise ArtifactError(
            f"It takes {fewest} images or more at a time, and Triton's batcher fills no batch.",
            remedy="Make it with a dynamic batch"
            + (", or use --backend python, which fills it." if artifact.kind is Kind.ONNX else "."),
            where=artifact.path,
        )
    most = fixed or (1 if backend == "openvino" else 0) or (limits.max.batch if limits is not None else 0)
    if wanted is not None and most and wanted > most:
        why = "Triton's OpenVINO backend does not batch" if backend == "openvino" else f"the model takes {most}"
        raise UsageError(f"--max-batch is {wanted}, and {why}.", remedy=f"Leave it away, or give at most {most}.")
    if most == 1 and backend != "python":
        return 0
    return wanted or (most if fixed else min(DEFAULT_BATCH, most or DEFAULT_BATCH))


def _tensors(
    artifact: Artifact, record: EngineRecord | None, backend: str
) -> tuple[TensorSpec, tuple[TensorSpec, TensorSpec]]:
    """The graph's input, and its outputs ``dets`` and ``keypoints``."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    if record is not None:
        inputs, outputs = record.inputs, record.outputs
    elif artifact.kind is Kind.OPENVINO:
        from rtmo_deploy.runtime.openvino_file import read_ir

        ir = read_ir(artifact.path)
        inputs, outputs = ir.inputs, ir.outputs
    else:
        from rtmo_deploy.runtime.onnx_file import read_graph, signature

        graph = signature(read_graph(artifact.path))
        inputs, outputs = graph.inputs, graph.outputs
    joints = len(artifact.skeleton)
    found = {spec.name: spec for spec in outputs}
    if backend != "python" and not all(found[name].shape for name in ("dets", "keypoints")):
        raise ArtifactError(
            "Its graph does not declare the shapes of its outputs, which Triton compares with the configuration.",
            remedy="Export it again, or use --backend python.",
            where=artifact.path,
        )
    any_shape = {"dets": (None, None, 5), "keypoints": (None, None, joints, 3)}
    dets, keypoints = (replace(found[name], shape=found[name].shape or shape) for name, shape in any_shape.items())
    return inputs[0], (dets, keypoints)


def _entry(spec: TensorSpec, *, batched: bool) -> Entry:
    sides = [-1 if side is None else side for side in spec.fixed]
    return Entry(spec.name, "FP32", sides[1:] if batched else sides)


def facts(plan: Plan) -> dict[str, Any]:
    """What a result says of a repository, JSON-ready."""
    return {
        "model": plan.artifact.path.name,
        "format": FORMATS[plan.artifact.kind].title,
        "precision": plan.artifact.precision,
        "backend": plan.backend,
        "device": "cpu" if plan.gpu is None else f"cuda:{plan.gpu}",
        "imgsz": [plan.height, plan.width],
        "max_batch": plan.max_batch or 1,
        "batched": plan.max_batch > 0,
        "preferred_batches": plan.preferred,
    }
