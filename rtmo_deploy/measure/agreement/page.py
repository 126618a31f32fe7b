"""The page of a comparison: one HTML file, light and dark, with its pictures inside; no script, no network."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from rtmo_deploy._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.measure.agreement.people import PictureAgreement
    from rtmo_deploy.measure.agreement.report import AgreementReport

__all__ = ["Card", "page"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #5c6166; --paper: #fff; --card: #f5f6f7; --line: #d9dcdf;
  --good: #00734f; --bad: #b3261e; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9ea; --soft: #a5abb1; --paper: #16181a; --card: #202326;
  --line: #3a3f44; --good: #4cc79a; --bad: #ff8a80; --warn: #e6b450; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { font-weight: 600; } .agree { color: var(--good); } .differ { color: var(--bad); }
.nobody { color: var(--warn); } .soft { color: var(--soft); }
ul { padding-left: 1.2rem; margin: .5rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .75rem; margin: 1rem 0;
  break-inside: avoid; }
article h3 { font-size: 1rem; margin: 0 0 .1rem; overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: .6rem;
  margin-top: .5rem; }
figure { margin: 0; } figcaption { font-size: .85rem; color: var(--soft); }
img { width: 100%; height: auto; display: block; border-radius: 4px; }
tr.first td { color: var(--bad); font-weight: 600; }
"""


@dataclass(frozen=True)
class Card:
    """A picture on the page.

    Attributes:
        picture: How the two compare on it.
        file: Name of the full picture beside the page.
        panels: JPEG of the first model, of the second, of the differences.
    """

    picture: PictureAgreement
    file: str
    panels: tuple[bytes, ...]


def page(report: AgreementReport, cards: Sequence[Card], times: int) -> str:
    """The page.

    Args:
        report: The comparison.
        cards: Its worst pictures, worst first.
        times: How many times as large errors are drawn.
    """
    left_out = len(report.pictures) - len(cards)
    shown = f"the worst {len(cards)} of {len(report.pictures)}" if left_out else f"all {len(cards)}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Parity: {escape(report.verdict)}</title><style>{_STYLE}</style></head><body>",
            _head(report),
            _figures(report),
            _layers(report),
            f"<h2>Pictures, worst first ({shown})</h2>",
            _explained(times),
            *(_card(card, times) for card in cards),
            f'<p class="soft">Written by rtmo-deploy {escape(__version__)}.</p></body></html>',
            "",
        ]
    )


def _explained(times: int) -> str:
    return (
        '<p class="soft">Differences: the first model\'s skeletons in grey; an arrow points from each of its keypoints '
        f"to the second's, drawn {times} times as long. Boxes: people whom one model alone found. Pictures are as the "
        "networks see them, letterboxed.</p>"
    )


def _head(report: AgreementReport) -> str:
    kind = {"agree": "agree", "differ": "differ"}.get(report.verdict, "nobody")
    words = {"agree": "The two agree within bounds.", "differ": "The two differ."}
    verdict = words.get(report.verdict, "Nobody was found by either: no people were compared.")
    items = [*report.failures(), *report.causes, *report.notes]
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    height, width = report.input_hw
    rows = "".join(
        f"<tr><td>{side}</td><td><code>{escape(model.path)}</code></td><td>{escape(model.kind)} "
        f"{escape(model.precision)}</td><td>{escape(model.decode)}</td><td>{escape(model.backend)}, "
        f"{escape(model.device)}</td><td><code>{model.sha256[:12]}</code></td></tr>"
        for side, model in (("A", report.a), ("B", report.b))
    )
    return (
        f'<h1>Parity of two models</h1><p class="verdict {kind}">{verdict}</p>'
        + (f"<ul>{listed}</ul>" if listed else "")
        + '<div class="scroll"><table><tr><th></th><th>file</th><th>what</th><th>decode</th><th>run by</th>'
        f"<th>sha256</th></tr>{rows}</table></div>"
        f'<p class="soft">{len(report.pictures)} pictures ({escape(report.source)}), network input {height}x{width}; '
        "the same tensors into both. Lengths are in pixels of that input.</p>"
    )


def _figures(report: AgreementReport) -> str:
    p, bounds = report.people, report.bounds
    rows = [
        ("people in A, in B", f"{p.people_a}, {p.people_b}", ""),
        ("in both; missed; extra", f"{p.matched}; {p.missed}; {p.extra}", f"{100 * bounds.unmatched:g} % in one only"),
        ("keypoint similarity (OKS), mean; least", f"{_n(p.oks_mean)}; {_n(p.oks_min)}", f"mean {bounds.oks_mean:g}"),
        ("keypoints, mean; median (px)", f"{_n(p.keypoint_px_mean)}; {_n(p.keypoint_px_p50)}", ""),
        (
            "keypoints, 99 of 100; worst (px)",
            f"{_n(p.keypoint_px_p99)}; {_n(p.keypoint_px_max)}",
            f"{bounds.keypoint_p99_px:g}; {_n(bounds.keypoint_max_px)}",
        ),
        ("boxes, mean; worst (px)", f"{_n(p.box_px_mean)}; {_n(p.box_px_max)}", f"worst {bounds.box_px:g}"),
        (
            "scores, B over A (median); worst difference",
            f"{_n(p.score_ratio)}; {_n(p.score_max)}",
            f"worst {bounds.score:g}",
        ),
    ]
    rows += [
        (f"output {name}, worst difference", _n(error.max_abs), f"{bounds.tensor:g} of {_n(error.magnitude)}")
        for name, error in report.tensors.items()
    ]
    body = "".join(
        f'<tr><td>{escape(what)}</td><td class="number">{escape(value)}</td>'
        f'<td class="number">{escape(bound)}</td></tr>'
        for what, value, bound in rows
    )
    return (
        '<h2>Figures</h2><div class="scroll"><table><tr><th></th><th class="number">measured</th>'
        f'<th class="number">bound</th></tr>{body}</table></div>'
    )


def _layers(report: AgreementReport) -> str:
    found = report.layers
    if found is None:
        return ""
    first = found.first
    rows = [layer for layer in found.layers if layer.weighted or layer is first]
    body = "".join(
        f"<tr{' class=first' if layer is first else ''}><td><code>{escape(layer.name)}</code></td>"
        f"<td>{escape(layer.op)}</td>"
        + (
            f"<td colspan=2>{escape(layer.why)}</td>"
            if layer.error is None
            else f'<td class="number">{_n(layer.error.snr_db)}</td><td class="number">{_n(layer.error.max_abs)}</td>'
        )
        + "</tr>"
        for layer in rows
    )
    told = "No layer parts" if first is None else f"The first layer where they part is {first.name}"
    return (
        f"<h2>Layers</h2><p>{escape(told)} (below {found.threshold_db:g} dB, on {escape(found.picture)}).</p>"
        f'<details><summary>{len(rows)} layers</summary><div class="scroll"><table><tr><th>layer</th><th></th>'
        f'<th class="number">signal over error, dB</th><th class="number">worst difference</th></tr>{body}</table>'
        "</div></details>"
    )


def _card(card: Card, times: int) -> str:
    picture = card.picture
    told = f"{picture.matched} in both, {picture.missed} missed, {picture.extra} extra"
    if picture.matched:
        told += (
            f"; least OKS {_n(float(picture.oks.min()))}, keypoints up to {_n(float(picture.keypoint_px.max()))} px, "
            f"boxes up to {_n(float(picture.box_px.max()))} px"
        )
    captions = (f"A: {picture.people_a} people", f"B: {picture.people_b} people", f"B minus A, x{times}")
    figures = "".join(
        f'<figure><img loading="lazy" alt="{escape(caption)}" src="data:image/jpeg;base64,'
        f'{base64.b64encode(panel).decode()}"><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, panel in zip(captions, card.panels, strict=True)
    )
    return (
        f'<article><h3>{escape(picture.name)}</h3><div class="soft">{escape(told)} '
        f'(<a href="{escape(card.file)}">{escape(card.file)}</a>)</div><div class="panels">{figures}</div></article>'
    )


def _n(value: float | None) -> str:
    """A number in four digits; - where there is none."""
    return "-" if value is None else f"{value:.4g}"
