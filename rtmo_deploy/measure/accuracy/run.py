"""Running a model over annotated images: in batches, with a journal, memory flat whatever their number."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import Artifact, DecodeMode
from rtmo_deploy.errors import InputDataError, UsageError, refuse_path
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.accuracy.detections import Detections, Journal
from rtmo_deploy.measure.accuracy.judge import choose_protocol, choose_sigmas, judge, require_people
from rtmo_deploy.plain import shorten
from rtmo_deploy.zoo.skeletons import CONVENTIONS, canonical_name

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.measure.accuracy.judge import AccuracyReport
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.runtime.estimator import PoseEstimator

    Image = NDArray[np.uint8]

#: Unreadable images that are named.
SHOWN = 20


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came of running a model."""

    report: AccuracyReport
    detections: Detections
    #: Images that an earlier run, which did not get to its end, had done already.
    resumed: int


def with_score_threshold(artifact: Artifact, score_thr: float) -> Artifact:
    """The same model, putting out people with a score above ``score_thr``, as far as that is decided outside of it.

    Raises:
        UsageError: The threshold is built into the file, and higher.
    """
    decode = artifact.decode
    if score_thr >= decode.score_thr:
        return artifact
    if artifact.kind is Kind.CHECKPOINT or decode.mode is DecodeMode.RAW:
        return replace(artifact, decode=replace(decode, score_thr=score_thr))
    raise UsageError(
        f"{artifact.path.name} drops people with a score up to {decode.score_thr}; {score_thr} is below that.",
        remedy=f"Export it again with a lower threshold, or give --score-thr {decode.score_thr} or more.",
    )


def evaluate_model(
    estimator: PoseEstimator,
    dataset: CocoKeypoints,
    *,
    protocol: str | None = None,
    sigmas: float | Sequence[float] | None = None,
    told: bool = False,
    score_thr: float = 0.1,
    batch: int = 8,
    journal: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    finished: Callable[[Detections], None] | None = None,
) -> Evaluation:
    """Find the people in every image of a dataset, and judge that.

    Args:
        estimator: The model; it must not drop people above ``score_thr`` itself (:func:`with_score_threshold`).
        dataset: The annotated images.
        protocol: ``coco`` or ``crowdpose``; by the keypoints if not given.
        sigmas: One OKS sigma for all keypoints, or one each; the skeleton's if not given.
        told: The dataset's skeleton is known to be the model's too, whatever names the model has.
        score_thr: People with a score not above this do not count.
        batch: Images at a time; a model with a fixed batch size takes that many.
        journal: A file for what has been found so far, or a folder, in which it gets a name that tells model,
            annotations and options apart; it is removed at the end. If it is there and is of the same model,
            annotations, images and options, the run goes on where it ended.
        progress: Told how many images are done, and how many there are.
        finished: Given what was found before the journal is removed: the place to save it.

    Raises:
        InputDataError: Images cannot be read; all of them are named. What is in the journal stays.
        ModelError: The model puts out something that is not a number.
        UsageError: It has other keypoints than the dataset, or there are no sigmas.
        SetupError: The journal cannot be written.
    """
    refuse_path(estimator, "RTMO(path)")
    refuse_path(dataset, "CocoKeypoints(path, images)")
    journal = None if journal is None else Path(journal)
    skeleton, remark = common_skeleton(estimator.artifact.skeleton, dataset.skeleton, told=told)
    choose_sigmas(sigmas, skeleton)  # before hours of work, not after
    require_people(dataset.ground_truth())
    choose_protocol(protocol, skeleton, dataset.ground_truth())
    if batch < 1:
        raise UsageError(f"A batch of {batch} images is not possible.", remedy="Give a positive number.")
    size = estimator.artifact.input.batch or batch
    joints, total = len(skeleton), len(dataset)
    book = None
    if journal is not None:
        facts = _facts(estimator, dataset, size, score_thr)
        if journal.is_dir():
            journal /= f"eval-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}.jsonl"
        book = Journal(journal, facts, joints)
    with closing(book) if book else nullcontext():
        done = {} if book is None else {n: found for n, found in book.done.items() if 0 <= n * size < total}
        resumed = sum(min(size, total - number * size) for number in done)
        count = resumed
        progress(count, total)
        failures: list[InputDataError] = []
        for number, images in _read_ahead(dataset, [n for n in range(-(-total // size)) if n not in done], size):
            failures += [one for one in images if isinstance(one, InputDataError)]
            if not failures:  # else only the other images that cannot be read are looked for
                sound = [one for one in images if not isinstance(one, InputDataError)]
                found = Detections.from_poses(estimator.predict(sound, batch=size), joints, first=number * size)
                done[number] = found.select(found.scores > score_thr)
                if book is not None:
                    book.add(number, done[number])
            count += len(images)
            progress(count, total)
        if failures:
            raise InputDataError(
                f"{len(failures)} of {total} images cannot be judged: {shorten(failures, SHOWN, separator=' ')}",
                remedy="A figure without them would not be comparable; mend them and run this again.",
                where=dataset.file,
            )
        detections = Detections.concatenate([done[number] for number in sorted(done)], joints)
        report = judge(dataset.ground_truth(), detections, skeleton, protocol=protocol, sigmas=sigmas)
        report = replace(report, notes=(*report.notes, *remark))
        if finished is not None:
            finished(detections)
        if book is not None:
            book.remove()
    return Evaluation(report, detections, resumed)


def _read_ahead(
    dataset: CocoKeypoints, numbers: Sequence[int], size: int
) -> Iterator[tuple[int, list[Image | InputDataError]]]:
    """The images of each batch, read while the one before is worked on."""

    def image(index: int) -> Image | InputDataError:
        try:
            return dataset.image(index)
        except InputDataError as error:
            return error

    def read(number: int) -> list[Image | InputDataError]:
        return [image(index) for index in range(number * size, min((number + 1) * size, len(dataset)))]

    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(read, number) for number in numbers[:1])
        for place, number in enumerate(numbers):
            images = ahead.popleft().result()
            ahead.extend(pool.submit(read, following) for following in numbers[place + 1 : place + 2])
            yield number, images


def _facts(estimator: PoseEstimator, dataset: CocoKeypoints, size: int, score_thr: float) -> dict[str, Any]:
    """What a run depends on; equal facts give equal detections."""
    artifact = estimator.artifact
    return {
        "rtmo_deploy": __version__,
        "model": sha256_of(artifact.path),
        "companion": artifact.companion.sha256 if artifact.companion else None,
        "annotations": sha256_of(dataset.file),
        "images": str(dataset.image_dir.resolve()),
        "count": len(dataset),
        "batch": size,
        "input_hw": list(estimator.input_hw),
        "backend": type(estimator.backend).__name__,
        "device": estimator.backend.device,
        "score_thr": score_thr,
    }


def common_skeleton(model: Skeleton, data: Skeleton, *, told: bool) -> tuple[Skeleton, tuple[str, ...]]:
    """The skeleton to judge with, and remarks: the dataset's, or the model's where the dataset names no keypoints.

    Raises:
        UsageError: The two have another number of keypoints, or the same in another order.
        InputDataError: They have different keypoints.
    """
    if len(model) != len(data):
        raise UsageError(
            f"The model finds {len(model)} keypoints ('{model.name}'), the annotations have {len(data)} "
            f"('{data.name}').",
            remedy="Judge a model on data with its own keypoints.",
        )
    if told:
        return data, ()
    if data.name.startswith("generic-"):
        return model, ("The annotation file does not name its keypoints; they are taken to be the model's.",)
    if model.name.startswith("generic-"):
        return data, ("The model does not name its keypoints; they are taken to be the annotation file's.",)
    ours, theirs = ([canonical_name(name) for name in one.keypoints] for one in (model, data))
    if ours != theirs:
        lists = f"{', '.join(model.keypoints)} against {', '.join(data.keypoints)}"
        if sorted(ours) == sorted(theirs):
            raise UsageError(
                f"The model and the annotations have the same keypoints in another order: {lists}.",
                remedy="Bring the annotations into the model's order.",
            )
        raise InputDataError(
            f"The model and the annotations have different keypoints: {lists}.",
            remedy="Judge a model on data with its own keypoints. If only the names differ, say what the keypoints "
            f"are with --skeleton ({', '.join(CONVENTIONS)} or a JSON file).",
        )
    # The model's sigmas are those that it was trained with; a guess from the names is no rival.
    better = model.sigmas and (not data.sigmas or data.source.startswith("guessed from names"))
    return (replace(data, sigmas=model.sigmas, source=f"the model ({model.name})") if better else data), ()
