"""Feed: from a recipe's data section to a deterministic stream of batches.

A batch is a function of the recipe and the step. So a resumed run sees the images that an uninterrupted one would
have seen, any number of worker processes gives the same batches, and so does any number of training processes:
each computes its own rows of the same global batch.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import RtmoDeployError, UsageError
from rtmo_deploy.sides import mirror_of
from rtmo_deploy.train.assign import collate
from rtmo_deploy.train.augment import AffineOptions, Augmenter, AugmentOptions, WindowOptions
from rtmo_deploy.train.sections import SyntheticSource
from rtmo_deploy.zoo.skeletons import COCO_17, CROWDPOSE_14, canonical_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from rtmo_deploy.data import PoseDataset
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.train.assign import Targets
    from rtmo_deploy.train.recipe import Recipe
    from rtmo_deploy.train.sections import AugmentSection, Source

#: More images than any run draws: the length of a stream that never repeats.
ENDLESS = 2**40


def open_source(source: Source, *, skeleton: Skeleton | None = None, everything: bool = False) -> PoseDataset:
    """The dataset that a recipe's entry means.

    ``skeleton`` is for an annotation file that does not name its keypoints; with ``everything`` it keeps images
    without people, as judging needs them.
    """
    if isinstance(source, SyntheticSource):
        options = SyntheticOptions(**source.model_dump(exclude={"type", "images", "seed", "fresh"}))
        return SyntheticPeople(ENDLESS if source.fresh else source.images, seed=source.seed, options=options)
    from rtmo_deploy.data.coco import CocoKeypoints

    return CocoKeypoints(source.annotations, source.images, skeleton=skeleton, only_annotated=not everything)


@dataclass(frozen=True)
class Feed:
    """Where batches come from.

    Each part is a dataset, the number of samples an epoch takes of it, and whether it is endless; ``domain`` is
    ``synthetic`` where every dataset is.
    """

    parts: tuple[tuple[PoseDataset, int, bool], ...]
    skeleton: Skeleton
    domain: str | None = None

    @property
    def epoch_size(self) -> int:
        """Samples in an epoch."""
        return sum(count for _, count, _ in self.parts)

    def locate(self, seed: int, epoch: int) -> list[tuple[int, int]]:
        """Part and index of each sample of an epoch, shuffled."""
        places = []
        for number, (dataset, count, endless) in enumerate(self.parts):
            if endless:
                indices: Sequence[int] = range(epoch * count, (epoch + 1) * count)
            else:
                indices = _draw(len(dataset), count, np.random.default_rng((seed, epoch, number, 1)))
            places += [(number, int(index)) for index in indices]
        order = np.random.default_rng((seed, epoch)).permutation(len(places))
        return [places[position] for position in order]


def _draw(size: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` of ``size`` images, spread evenly: each stretch of the set lends one, picked at random."""
    if count == size:
        return list(range(size))
    edges = np.arange(count + 1) * (size / count)
    picked = edges[:-1] + rng.random(count) * (edges[1:] - edges[:-1])
    return [min(int(value), size - 1) for value in picked]


def build_feed(recipe: Recipe, initial: Skeleton | None = None) -> Feed:
    """Open the training sets of a recipe."""
    from rtmo_deploy.data.translated import BODY7, TranslatedDataset

    known = {one.name: one for one in (COCO_17, CROWDPOSE_14)}
    sources = recipe.data.train
    datasets = [open_source(source) for source in sources]
    skeleton = known[recipe.data.skeleton] if recipe.data.skeleton else datasets[0].skeleton
    skeleton = _governing(skeleton, initial)
    parts = []
    for source, dataset in zip(sources, datasets, strict=True):
        count, endless = len(dataset), False
        if isinstance(source, SyntheticSource):
            count, endless = source.images, source.fresh
        else:
            count = count if source.ratio is None else max(1, round(count * source.ratio))
            mapping = source.mapping
            if isinstance(mapping, str):
                if mapping not in BODY7:
                    raise UsageError(
                        f"There is no keypoint mapping called {mapping!r}.",
                        remedy=f"Use one of {', '.join(BODY7)}, or write the pairs out.",
                    )
                mapping = BODY7[mapping]
            if mapping is not None:
                dataset = TranslatedDataset(dataset, mapping, skeleton)
            else:
                dataset = in_order(source, dataset, skeleton, told=recipe.data.skeleton is not None)
        if len(dataset.skeleton) != len(skeleton):
            raise UsageError(
                f"One training set has {len(dataset.skeleton)} keypoints, the model {len(skeleton)}.",
                remedy="Give the set a 'mapping' to the model's keypoints.",
            )
        parts.append((dataset, count, endless))
    sigmas = recipe.data.sigmas
    if sigmas is not None:
        if len(sigmas) != len(skeleton):
            raise UsageError(
                f"The recipe gives {len(sigmas)} sigmas for {len(skeleton)} keypoints.", remedy="Mend 'data.sigmas'."
            )
        skeleton = replace(skeleton, sigmas=sigmas)
    if recipe.data.flip_pairs is not None:
        skeleton = _with_pairs(skeleton, recipe.data.flip_pairs)
    elif any(augment_options(recipe.augment, recipe.input, plain=plain).flip for plain in (False, True)):
        _require_pairs(skeleton)
    synthetic = all(getattr(dataset, "domain", None) == "synthetic" for dataset in datasets)
    return Feed(tuple(parts), skeleton, "synthetic" if synthetic else None)


def _names(skeleton: Skeleton) -> list[str]:
    return [canonical_name(name) for name in skeleton.keypoints]


def _governing(data: Skeleton, initial: Skeleton | None) -> Skeleton:
    """The initial model's skeleton where it has the same keypoints as the data, else the data's."""
    if initial is None or len(initial) != len(data) or initial.name.startswith("generic-"):
        return data
    if data.name.startswith("generic-") or sorted(_names(initial)) == sorted(_names(data)):
        pairs = initial.flip_pairs or (data.flip_pairs if _names(initial) == _names(data) else ())
        return replace(initial, flip_pairs=pairs)
    return data


def in_order(
    source: Source, dataset: PoseDataset, skeleton: Skeleton, *, told: bool, everything: bool = False
) -> PoseDataset:
    """The dataset with its keypoints in the model's order; UsageError where it is not known to have them."""
    ours, theirs = _names(skeleton), _names(dataset.skeleton)
    generic = dataset.skeleton.name.startswith("generic-") or skeleton.name.startswith("generic-")
    if len(ours) != len(theirs) or ours == theirs or generic:
        return dataset
    if sorted(ours) == sorted(theirs):
        return open_source(source, skeleton=skeleton, everything=everything)
    if told or isinstance(source, SyntheticSource):
        return dataset
    raise UsageError(
        f"{source.annotations} has other keypoints than the model: {', '.join(dataset.skeleton.keypoints)} against "
        f"{', '.join(skeleton.keypoints)}.",
        remedy="Give the set a 'mapping' to the model's keypoints.",
    )


def _with_pairs(skeleton: Skeleton, pairs: Sequence[tuple[int | str, int | str]]) -> Skeleton:
    def place(one: int | str) -> int:
        found = skeleton.find(one)
        if found is None:
            raise UsageError(
                f"'data.flip_pairs' has {one!r}, which is not a keypoint of the model.",
                remedy=f"Its keypoints are 0 to {len(skeleton) - 1}: {', '.join(skeleton.keypoints)}.",
            )
        return found

    places = tuple((place(first), place(second)) for first, second in pairs)
    ends = [end for pair in places for end in pair]
    if len(set(ends)) < len(ends):
        raise UsageError("'data.flip_pairs' has a keypoint twice.", remedy="Put each keypoint into one pair at most.")
    return replace(skeleton, flip_pairs=places)


def _require_pairs(skeleton: Skeleton) -> None:
    """Refuse to mirror images where it is not known which keypoints change places."""
    paired = {end for pair in skeleton.flip_pairs for end in pair}
    mirror = mirror_of(skeleton.keypoints)
    sided = [skeleton.keypoints[one] for one in mirror.sided if one not in paired]
    missing = [skeleton.keypoints[end] for pair in mirror.pairs for end in pair if end not in paired]
    blind = not paired and len(skeleton) > 1 and bool(mirror.unknown)
    if not (sided or missing or blind):
        return
    which = ", ".join(sided or missing or skeleton.keypoints)
    raise UsageError(
        f"Images are mirrored (flip probability above 0), and it is not known which keypoints change places: {which}.",
        remedy="Give the pairs as data.flip_pairs, such as [[left_eye, right_eye]] ([] if none change places), or set "
        "augment.flip to 0.",
    )


def augment_options(section: AugmentSection, input_hw: tuple[int, int], *, plain: bool) -> AugmentOptions:
    """Options of the main part, or of the plain epochs at the end."""
    if section.preset == "none":
        options = AugmentOptions(input_hw)
    elif plain:
        options = AugmentOptions.last_epochs(input_hw, window=WindowOptions() if section.plain_window else None)
    elif section.preset == "coco":
        options = AugmentOptions.coco(input_hw)
    else:
        options = AugmentOptions.crowdpose(input_hw)
    named = {name: getattr(section, name) for name in ("mosaic", "mixup", "flip", "hsv")}
    if plain:
        named["mosaic"] = named["mixup"] = None
    options = replace(options, **{name: value for name, value in named.items() if value is not None})
    jitter = {name: getattr(section, name) for name in ("shift", "rotate", "scale")}
    jitter = {name: value for name, value in jitter.items() if value is not None}
    if jitter and not plain:
        base = options.affine if isinstance(options.affine, AffineOptions) else AffineOptions(0.0, 0.0, (1.0, 1.0), 0.0)
        options = replace(options, affine=replace(base, **jitter))
    return options


class Batches(Dataset[Any]):
    """The batches of one training process, by step (accumulated parts count as steps of their own)."""

    def __init__(self, recipe: Recipe, feed: Feed, *, rank: int = 0, world: int = 1) -> None:
        share = recipe.batch // recipe.accumulate
        if share % world:
            raise UsageError(
                f"A batch of {share} cannot be shared evenly by {world} processes.",
                remedy="Change 'batch' or 'accumulate', or the number of processes.",
            )
        self.recipe, self.feed, self.rank = recipe, feed, rank
        self.share = share
        self.rows = share // world
        self.steps_per_epoch = feed.epoch_size // recipe.batch
        if not self.steps_per_epoch:
            raise UsageError(
                f"An epoch has {feed.epoch_size} samples, less than the batch of {recipe.batch}.",
                remedy="Make 'batch' smaller, or 'images' or 'ratio' larger.",
            )
        self._epoch = -1
        self._places: list[tuple[int, int]] = []
        self._augmenters: list[Augmenter] = []

    def __len__(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch * self.recipe.accumulate

    def __getitem__(self, number: int) -> tuple[Tensor, Targets] | RtmoDeployError:
        """:meth:`batch`, or its error: raised in a worker, it would come wrapped in the worker's traceback."""
        try:
            return self.batch(number)
        except RtmoDeployError as error:
            return error.with_traceback(None)

    def batch(self, number: int) -> tuple[Tensor, Targets]:
        """Images ``(rows, 3, H, W)`` uint8 and people of part ``number``."""
        epoch, position = divmod(number, self.steps_per_epoch * self.recipe.accumulate)
        recipe = self.recipe
        if epoch != self._epoch:
            self._places = self.feed.locate(recipe.seed, epoch)
            options = augment_options(recipe.augment, recipe.input_at(epoch), plain=recipe.is_plain(epoch))
            flip_indices = self.feed.skeleton.flip_indices()
            self._augmenters = [Augmenter(one, options, flip_indices=flip_indices) for one, _, _ in self.feed.parts]
            self._epoch = epoch
        samples = []
        first = position * self.share + self.rank * self.rows
        for place in range(first, first + self.rows):
            part, index = self._places[place]
            samples.append(self._augmenters[part](index, np.random.default_rng((recipe.seed, epoch, place))))
        return collate(samples)


def loader(batches: Batches, *, start: int, workers: int) -> Iterator[tuple[Tensor, Targets]]:
    """Batches from part ``start`` on, computed ahead by worker processes."""
    # Threads of OpenCV do not survive a fork, and a worker that has inherited their pool waits for them for ever.
    cv2.setNumThreads(1)
    ahead: DataLoader[Any] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_prepare_worker,
    )
    for item in ahead:
        if isinstance(item, RtmoDeployError):
            raise item
        yield item


def _prepare_worker(_: int) -> None:
    # Ctrl-C reaches every process of the terminal; what becomes of the workers is the main process's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
