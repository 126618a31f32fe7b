"""Which side of the body a keypoint is on, by its name, and which keypoints are mirror images."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

Side = Literal["left", "right", "centre"]

#: Words of a name: ``LEye`` is L, Eye; ``kneeL1`` is knee, L, 1; ``left_eye`` is left, eye.
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")
_SWAP: Final = {"left": "right", "right": "left", "l": "r", "r": "l"}
#: What may follow or precede a side without a gap, as in ``lshoulder``: a word that merely begins with l is no side.
_PARTS: Final = (
    "ankle arm ball brow calf cheek ear elbow eye eyebrow finger foot forearm hand heel hip hock hoof index kidney "
    "knee leg mouth palm paw pinky shoulder shin sho thigh thumb toe wing wrist bigtoe smalltoe elb wri kne ank"
)
_GLUED: Final = re.compile(
    rf"(?P<before>left|right|l|r)(?:{_PARTS.replace(' ', '|')})s?|"
    rf"(?:{_PARTS.replace(' ', '|')})(?P<after>left|right|l|r)",
    re.IGNORECASE,
)
#: Words that look glued and are whole: the rear is not the right ear.
_WHOLE: Final = frozenset({"rear", "lear", "heel", "kneel", "earl", "legl"})
_CENTRAL_WORDS: Final = (
    "nose neck head top headtop crown forehead chin jaw throat mouth face pelvis root hip hips torso trunk thorax "
    "chest sternum spine back belly navel tail base end withers center centre mid middle central bottom of the body "
    "tailbase tailend tailtip tip tophead lower upper low up"
)
_CENTRAL: Final = frozenset(_CENTRAL_WORDS.split())


class Mirror(NamedTuple):
    """What names say of left and right: pairs, sides without a partner, the middle, and the rest, by index."""

    pairs: tuple[tuple[int, int], ...]
    sided: tuple[int, ...]
    central: tuple[int, ...]
    unknown: tuple[int, ...]


@lru_cache(maxsize=4096)
def side_of(name: str) -> Side:
    """Body side that a keypoint's name gives; ``centre`` where it gives none, or both."""
    sides = {name[first].lower() for first, _ in _places(name)}
    if len(sides) != 1:
        return "centre"
    return "left" if sides == {"l"} else "right"


def mirror_of(names: Sequence[str]) -> Mirror:
    """Pair names that differ in their side alone, written in the same style.

    ``left_eye`` with ``right_eye``, ``kneeL`` with ``kneeR``; not ``shoulder_l`` with ``shoulderR``.
    """
    # The case of letters does not matter: LeftFin goes with rightFin.
    index = {name.casefold(): place for place, name in enumerate(names)}
    unique = len(index) == len(names)
    pairs: list[tuple[int, int]] = []
    sided: list[int] = []
    central: list[int] = []
    unknown: list[int] = []
    for place, name in enumerate(names):
        partner = index.get(_swapped(name).casefold()) if unique else None
        sides = _places(name)
        if partner is not None and partner != place and _swapped(names[partner]).casefold() == name.casefold():
            if name[sides[0][0]].lower() == "l":
                pairs.append((place, partner))
        elif sides:
            sided.append(place)
        else:
            words = {word[0].lower() for word in _WORD.finditer(name)}
            (central if words and words <= _CENTRAL else unknown).append(place)
    return Mirror(tuple(pairs), tuple(sided), tuple(central), tuple(unknown))


def _places(name: str) -> list[tuple[int, int]]:
    """Where the words for a side stand in a name."""
    words = list(_WORD.finditer(name))
    found = [word.span() for word in words if word[0].lower() in _SWAP]
    if found:
        return found
    for word in words:
        start, text = word.start(), word[0]
        glued = None if text.lower() in _WHOLE else _GLUED.fullmatch(text)
        if glued is not None:
            first, last = glued.span("before" if glued["before"] else "after")
            return [(start + first, start + last)]
    return []


def _swapped(name: str) -> str:
    """The name with its sides changed."""
    parts, end = [], 0
    for first, last in _places(name):
        parts += [name[end:first], _SWAP[name[first:last].lower()]]
        end = last
    return "".join([*parts, name[end:]])
