"""The images that are measured with: somebody's own, or synthetic ones with a known number of people, as files.

They are files because reading one is a stage. Synthetic ones are JPEG of quality 90 with halved colours, as cameras
write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import InputDataError

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.measure.bench.options import BenchOptions

SEED = 20231212
JPEG_QUALITY = 90
#: Images that are made at most for each that has the right number of people.
TRIES = 40
#: People in a synthetic image where no number was asked for.
USUAL_PEOPLE = (1, 12)


@dataclass(frozen=True)
class ImageSet:
    """Images of one case: their files, and for the reader what they are."""

    #: In each of them; None where it is not the same, or not known.
    people: int | None
    paths: tuple[Path, ...]
    what: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"people": self.people, "count": len(self.paths), "what": self.what}


def image_sets(options: BenchOptions, folder: Path) -> list[ImageSet]:
    """Images for each number of people that is asked for; one set where none is."""
    if options.images is None:
        return [_synthetic(options, folder, count) for count in (options.people or (None,))]
    from rtmo_deploy.data.images import find_images, read_image

    paths = find_images([options.images])
    for path in paths:
        read_image(path)  # before anything is measured, not in the middle of it
    what = f"{len(paths)} images of {options.images}"
    return [ImageSet(None, tuple(path.resolve() for path in paths), what)]


def _synthetic(options: BenchOptions, folder: Path, people: int | None) -> ImageSet:
    import cv2

    from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople

    (height, width), wanted = options.picture_hw, options.pictures
    asked = USUAL_PEOPLE if people is None else (people, people)
    source = SyntheticPeople(
        wanted * TRIES, seed=SEED, options=SyntheticOptions(size=(height, width), people=asked, truncated=0.0)
    )
    paths: list[Path] = []
    for index in range(len(source)):
        sample = source[index]
        if people is not None and len(sample.people.boxes) != people:
            continue  # there was no room for everybody
        path = folder / f"{'some' if people is None else people}-{len(paths):02d}.jpg"
        encoded = cv2.imencode(".jpg", sample.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        path.write_bytes(encoded.tobytes())
        paths.append(path)
        if len(paths) == wanted:
            break
    if not paths:
        raise InputDataError(
            f"{people} people found no room in an image of {width}x{height} pixels.", remedy="Ask for fewer people."
        )
    count = {None: "1 to 12 people", 1: "1 person"}.get(people, f"{people} people")
    return ImageSet(people, tuple(paths), f"{len(paths)} synthetic images of {width}x{height} with {count} each")
