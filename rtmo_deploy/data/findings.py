"""What is wrong with an annotation file, all of it at once, by kind and by id."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from rtmo_deploy.errors import InputDataError
from rtmo_deploy.plain import shorten
from rtmo_deploy.poses import Skeleton

if TYPE_CHECKING:
    from pathlib import Path

Severity = Literal["error", "warning", "note"]
Subject = Literal["image", "annotation", "file"]
#: Ids of one finding that are printed; ``to_dict`` gives all.
SHOWN: Final = 10
_BOUND_FOR_IGNORE: Final = "they are not learned, and detections of theirs are neither right nor wrong"

#: Kind -> how bad it is, what it is about, and what happened (and, where it is handled, how).
KINDS: Final[dict[str, tuple[Severity, Subject, str]]] = {
    "image-entry": ("error", "image", "no object with an id and a file name"),
    "image-id-duplicate": ("error", "image", "the id occurs more than once"),
    "image-missing": ("error", "image", "the file is not in the image folder"),
    "image-unreadable": ("error", "image", "the image cannot be read"),
    "image-large": ("error", "image", "the image has more pixels than are read; allow more with --max-pixels"),
    "image-size": ("error", "image", "the image is not as large as the annotations say"),
    "image-value": ("warning", "image", "the size is not two positive numbers; taken as unknown"),
    "image-text": ("error", "image", "the width, height or crowdIndex is text, not a number"),
    "size-swapped": ("warning", "file", "width and height of the images are swapped, as in CrowdPose's; read so"),
    "annotation-text": (
        "error",
        "annotation",
        "image_id, category_id, area or num_keypoints is missing, or text and not a number",
    ),
    "crowd-value": ("error", "annotation", "iscrowd is not 0 or 1"),
    "annotation-entry": ("error", "annotation", "no object with an image id"),
    "annotation-id": ("warning", "annotation", "the annotation has no id; it is named by its place in the list"),
    "annotation-id-duplicate": ("warning", "annotation", "the id occurs more than once; all of them are used"),
    "annotation-image": ("warning", "annotation", "the image id is not in the file; left out"),
    "annotation-category": ("warning", "annotation", "the category is unknown or has no keypoints; left out"),
    "keypoint-count": ("error", "annotation", "the keypoints are not three numbers for each keypoint of the category"),
    "keypoint-value": ("error", "annotation", "a labelled keypoint is not at a finite place"),
    "keypoint-text": ("error", "annotation", "a visibility flag is not a number"),
    "keypoint-flag": ("warning", "annotation", "a flag is not 0, 1 or 2; above 0 the keypoint is labelled"),
    "keypoint-far": ("warning", "annotation", "a labelled keypoint lies far outside the image; not learned"),
    "num-keypoints-zero": (
        "warning",
        "annotation",
        "num_keypoints is 0, and there are labelled keypoints, or the other way round; not learned",
    ),
    "num-keypoints": ("note", "annotation", "num_keypoints is not the number of labelled keypoints"),
    "box-value": ("error", "annotation", "the box is not four finite numbers"),
    "box-none": ("warning", "annotation", "there is no box; left out"),
    "box-empty": ("warning", "annotation", "the box is empty, or outside the image; not learned"),
    "area": (
        "warning",
        "annotation",
        "the area is not a number above 0 and up to 1e10; 0.53 of the box is taken for it",
    ),
    "segmentation": ("warning", "annotation", "the segmentation cannot be read; the box stands in for it"),
    "crowd": ("note", "annotation", f"crowds; {_BOUND_FOR_IGNORE}"),
    "no-keypoints": ("note", "annotation", f"people without labelled keypoints; {_BOUND_FOR_IGNORE}"),
    "skeleton": ("warning", "file", "the category's skeleton names keypoints that do not exist; those edges are left"),
    "flip-pairs": ("error", "file", "the category's flip pairs are not pairs of its keypoints"),
    "category-id": ("error", "file", "the id of the category is neither a whole number nor text"),
    "nobody": (
        "error",
        "file",
        "there is nobody to find or to learn: no annotation of the category has labelled keypoints and is no crowd",
    ),
    "no-annotations": ("warning", "file", "there are no annotations"),
}


@dataclass(frozen=True)
class Finding:
    """One kind of thing found, one of :data:`KINDS`, and the ids it was found at (``#12`` for an entry without one)."""

    kind: str
    severity: Severity
    subject: Subject
    what: str
    ids: tuple[int | str, ...] = ()

    def __str__(self) -> str:
        if not self.ids:
            return f"{self.what}."
        noun = self.subject + "s" * (len(self.ids) > 1)
        return f"{noun} {shorten(self.ids, SHOWN)}: {self.what}."


@dataclass
class CocoReport:
    """What a check of an annotation file found; filled while the file is read."""

    file: Path  #: The annotation file.
    images: int = 0  #: Images in it.
    annotations: int = 0  #: Annotations in it, usable or not.
    people: int = 0  #: People to learn.
    #: What the keypoints are, with the pairs that change places in a mirrored image.
    skeleton: Skeleton = field(default_factory=lambda: Skeleton.generic(0))
    #: By kind of finding, the ids it was found at.
    ids: dict[str, list[int | str]] = field(default_factory=dict, repr=False)

    def add(self, kind: str, *ids: int | str) -> None:
        """Note that ``kind`` (a key of :data:`KINDS`) was found at ``ids``; without ids, in the file as a whole."""
        seen = self.ids.setdefault(kind, [])
        seen.extend(one for one in ids if not seen or seen[-1] != one)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Errors first, then warnings, then notes."""
        found = [Finding(kind, *KINDS[kind], tuple(self.ids[kind])) for kind in KINDS if kind in self.ids]
        order = ("error", "warning", "note")
        return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))

    @property
    def flip_pairs(self) -> list[list[str]]:
        """Names of the keypoints that change places in a mirrored image."""
        names = self.skeleton.keypoints
        return [[names[one], names[two]] for one, two in self.skeleton.flip_pairs]

    @property
    def unpaired(self) -> list[str]:
        """Names of the keypoints that stay as they are."""
        paired = {name for pair in self.flip_pairs for name in pair}
        return [name for name in self.skeleton.keypoints if name not in paired]

    @property
    def ok(self) -> bool:
        """Whether there are no errors; warnings are no errors."""
        return not self.of("error")

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def require_ok(self) -> None:
        """Raise one InputDataError that names all errors."""
        if not self.ok:
            listed = " ".join(f"{str(finding)[0].upper()}{str(finding)[1:]}" for finding in self.of("error"))
            raise InputDataError(
                listed,
                remedy="Correct the file, or name the folder of its images; in Python, strict=False leaves these out.",
                where=self.file,
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "file": str(self.file),
            "ok": self.ok,
            "images": self.images,
            "annotations": self.annotations,
            "people": self.people,
            "keypoints": list(self.skeleton.keypoints),
            "flip_pairs": self.flip_pairs,
            "unpaired": self.unpaired,
            "findings": [{**vars(finding), "ids": list(finding.ids)} for finding in self.findings],
        }
