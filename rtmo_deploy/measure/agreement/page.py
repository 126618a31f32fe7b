"""The page of a comparison: one HTML file, light and dark, with its pictures inside; no script, no network."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.measure.bounds import WORKING_SCORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.measure.agreement.report import AgreementReport
    from rtmo_deploy.measure.comparison import Figures, ImageComparison

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
h1, h3 { overflow-wrap: anywhere; }
th, td { min-width: 5rem; overflow-wrap: break-word; } td:first-child { min-width: 9rem; }
td code { display: block; min-width: 15rem; }
ul { padding-left: 1.2rem; margin: .5rem 0; }
.scroll { overflow-x: auto; background:
  linear-gradient(90deg, var(--paper) 30%, transparent) 0 0 / 40px 100% no-repeat local,
  linear-gradient(270deg, var(--paper) 30%, transparent) 100% 0 / 40px 100% no-repeat local,
  linear-gradient(90deg, var(--soft), transparent) 0 0 / 10px 100% no-repeat scroll,
  linear-gradient(270deg, var(--soft), transparent) 100% 0 / 10px 100% no-repeat scroll; }
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

    picture: ImageComparison
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
            _explained(report, times),
            *(_card(report, card, times) for card in cards),
            f'<p class="soft">Written by rtmo-deploy {escape(__version__)}.</p></body></html>',
            "",
        ]
    )


def _explained(report: AgreementReport, times: int) -> str:
    one, two = map(escape, report.names)
    return (
        f'<p class="soft">People with a score above {WORKING_SCORE:g} are drawn. Differences: the skeletons of {one} '
        f"in grey; an arrow points from each of its keypoints to that of {two}, drawn {times} times as long. Boxes: "
        "people whom one model alone found. Images are as the networks see them, letterboxed.</p>"
    )


def _head(report: AgreementReport) -> str:
    kind = {"agree": "agree", "differ": "differ"}.get(report.verdict, "nobody")
    items = [*report.failures(), *report.causes, *report.notes]
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    height, width = report.input_hw
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(model.path)}</code></td><td>{escape(model.kind)} "
        f"{escape(model.precision)}</td><td>{escape(model.decode)}</td><td>{escape(model.backend)}, "
        f"{escape(model.device)}</td><td><code>{model.sha256[:12]}</code></td></tr>"
        for name, model in zip(report.names, (report.a, report.b), strict=True)
    )
    one, two = map(escape, report.names)
    return (
        f'<h1>Parity of {one} and {two}</h1><p class="verdict {kind}">{escape(report.told)}</p>'
        + (f"<ul>{listed}</ul>" if listed else "")
        + '<div class="scroll"><table><tr><th>model</th><th>file</th><th>what</th><th>decode</th><th>run by</th>'
        f"<th>sha256</th></tr>{rows}</table></div>"
        f'<p class="soft">{len(report.pictures)} pictures ({escape(report.source)}), network input {height}x{width}; '
        "the same tensors into both. Lengths are in pixels of that input.</p>"
    )


def _figures(report: AgreementReport) -> str:
    p, (one, two) = report.people, report.names
    rows = [
        (f"people{report.above}", f"{p.people_a} in {one}, {p.people_b} in {two}"),
        ("in both; missed; extra", f"{p.matched}; {p.missed}; {p.extra}"),
        ("OKS, mean; least", f"{_n(p.oks_mean)}; {_n(p.oks_min)}"),
        ("keypoints, mean; median; 99 of 100; worst (px)", "; ".join(map(_n, _keypoints(p)))),
        ("boxes, mean; worst (px)", f"{_n(p.box_px_mean)}; {_n(p.box_px_max)}"),
        (f"scores, {two} over {one} (median); worst difference", f"{_n(p.score_ratio)}; {_n(p.score_max)}"),
    ]
    body = "".join(f'<tr><td>{escape(what)}</td><td class="number">{escape(value)}</td></tr>' for what, value in rows)
    rule = "".join(
        f"<tr{'' if check.passed else ' class=first'}><td>{escape(check.name)}</td><td>{escape(check.bound)}</td>"
        f"<td>{escape(check.measured)}</td><td>{'passed' if check.passed else 'failed'}</td></tr>"
        for check in sorted(report.checks(), key=lambda check: check.passed)
    )
    return (
        f"<h2>Rule</h2><p class=soft>Bounds for {escape(report.a.precision)} and {escape(report.b.precision)}: "
        f"{escape(report.bounds.why)}.</p>"
        '<div class="scroll"><table><tr><th>what</th><th>bound</th><th>measured</th><th>result</th></tr>'
        f"{rule}</table></div>"
        '<h2>Figures</h2><div class="scroll"><table><tr><th></th><th class="number">measured</th></tr>'
        f"{body}</table></div>"
    )


def _keypoints(p: Figures) -> tuple[float | None, ...]:
    return p.keypoint_px_mean, p.keypoint_px_p50, p.keypoint_px_p99, p.keypoint_px_max


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
    return (
        f"<h2>Layers</h2><p>{escape(found.told())}</p>"
        f'<details><summary>{len(rows)} layers</summary><div class="scroll"><table><tr><th>layer</th><th></th>'
        f'<th class="number">signal over error, dB</th><th class="number">worst difference</th></tr>{body}</table>'
        "</div></details>"
    )


def _card(report: AgreementReport, card: Card, times: int) -> str:
    picture = card.picture
    told = f"{picture.matched} in both, {picture.missed} missed, {picture.extra} extra"
    if picture.matched:
        told += (
            f"; least OKS {_n(float(picture.oks.min()))}, keypoints up to {_n(float(picture.keypoint_px.max()))} px, "
            f"boxes up to {_n(float(picture.box_px.max()))} px"
        )
    one, two = report.names
    captions = (
        f"{one}: {picture.people_a} people",
        f"{two}: {picture.people_b} people",
        f"differences, {times} times as long",
    )
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
