"""MODEL_CARD.md: what a release's models are, how to use them and what was measured, in Hugging Face's format."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import yaml

from rtmo_deploy._version import __version__
from rtmo_deploy.files import human_size
from rtmo_deploy.plain import counted
from rtmo_deploy.release.documents.facts import (
    accuracies_of,
    clean,
    license_of,
    limitations_of,
    models_of,
    origin_of,
    precision_of,
    training_data_of,
)
from rtmo_deploy.release.gates import case_of
from rtmo_deploy.report.html import number
from rtmo_deploy.report.table import Table, markdown_text
from rtmo_deploy.report.template import environment
from rtmo_deploy.zoo.records import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jinja2

    from rtmo_deploy.release.documents.facts import Accuracy, Model
    from rtmo_deploy.release.record import Release, ReleaseFile, StepRecord

TASK: Final = "keypoint-detection"
#: Licences that the Hugging Face Hub has a key for, of those that weights come under; others are "other" there.
_HUB_LICENSES: Final = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense", "mpl-2.0"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0"),
}
_METRICS: Final = ("AP", "AP50", "AP75", "AR")
_PEOPLE: Final = ("matched", "missed", "extra", "oks_mean", "keypoint_px_p99", "keypoint_px_max")


class _Markdown(str):
    """Text that the template takes as it is; all other text is escaped."""

    __slots__ = ()


def model_card(release: Release, files: Sequence[ReleaseFile]) -> str:
    """The card, with ``files``, which the steps made: YAML front matter and Markdown."""
    models, card, source = models_of(release, files), release.recipe.card, release.source
    front = yaml.safe_dump(_front_matter(release, models), sort_keys=False, allow_unicode=True, width=10_000)
    text = _template().render(
        front=_Markdown(front.rstrip()),
        release=release,
        card=card,
        source=source.facts if source.good else None,
        keypoints=counted(len(source.facts["artifact"]["skeleton"]["keypoints"]), "keypoint") if source.good else "",
        authors=", ".join(filter(None, [*card.authors, card.organization])),
        intended_use=_paragraphs(card.intended_use or ""),
        limitations=limitations_of(release),
        files=_files(models),
        use=_use(models),
        contracts=_contracts(models),
        skeleton=_skeleton(release),
        accuracy=_accuracy(release),
        synthetic=any(one.synthetic for one in accuracies_of(release)),
        parity=_parity(release),
        latencies=[result for result in release.of("latency") if result.good],
        latency_table=_latency,
        license=license_of(release),
        training_data=training_data_of(release),
        version=__version__,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    def escaped(value: object) -> str:
        return value if isinstance(value, _Markdown) else markdown_text(clean(str(value)))

    made = environment("rtmo_deploy.release.documents", finalize=escaped)
    made.filters["safe"] = _Markdown
    return made.get_template("MODEL_CARD.md.j2")


def _front_matter(release: Release, models: Sequence[Model]) -> dict[str, Any]:
    card, found, origin = release.recipe.card, license_of(release), origin_of(release)
    front: dict[str, Any] = {}
    if found is not None and found.name.lower() in _HUB_LICENSES:
        front["license"] = found.name.lower()
    elif found is not None:
        # The Hub takes small letters, digits, dots and dashes, and no empty name.
        name = re.sub(r"[^a-z0-9.]+", "-", found.name.lower()).strip("-")
        front |= {"license": "other", "license_name": name or "other"}
    kinds = {str(model.artifact["kind"]) for model in models}
    front |= {"library_name": "rtmo-deploy", "tags": ["rtmo", "pose-estimation", *sorted(kinds)], "pipeline_tag": TASK}
    if card.base_model is not None:
        front["base_model"] = card.base_model
    if isinstance(origin, Variant) and card.training_data is None:
        front["datasets"] = origin.train_set.lower().split(" -> ")
    made = {model.result.name: model for model in models}
    results = [_result(one, made[one.model]) for one in accuracies_of(release) if one.model in made and one.metrics]
    if results:
        front["model-index"] = [{"name": release.recipe.name, "results": results}]
    return front


def _result(accuracy: Accuracy, model: Model) -> dict[str, Any]:
    name = clean(f"{accuracy.data} ({accuracy.scope}{', synthetic' if accuracy.synthetic else ''})")
    kind = "synthetic" if accuracy.synthetic else "coco-keypoints"
    shown = [metric for metric in _METRICS if metric in accuracy.metrics]
    return {
        "task": {"type": TASK, "name": "Multi-person pose estimation"},
        "dataset": {"type": kind, "name": " ".join(name.split())},
        "metrics": [
            {"type": metric, "name": f"{metric}, {model.files[0].path}", "value": round(accuracy.metrics[metric], 4)}
            for metric in shown
        ],
    }


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> _Markdown:
    """Empty where there are no rows."""
    cleaned = [tuple(map(clean, row)) for row in rows]
    return _Markdown("\n".join(Table("", head, cleaned, numbers=False).markdown()) if rows else "")


def _files(models: Sequence[Model]) -> _Markdown:
    rows = {}  # by path: models can share a companion
    for model in models:
        for file in model.files:
            own = file is model.files[0]
            what = (str(model.artifact["kind"]), precision_of(model.result)) if own else ("companion", "")
            rows[file.path] = (file.path, *what, human_size(file.size), file.sha256)
    return _table(("file", "kind", "precision", "size", "SHA-256"), list(rows.values()))


def _use(models: Sequence[Model]) -> dict[str, Any] | None:
    """The model of the examples: the first that ONNX Runtime takes one image with and that gives detections."""
    if not models:
        return None
    plain = [model for model in models if _is_plain(model)]
    model = (plain or list(models))[0]
    return {"path": model.files[0].path, "plain": bool(plain), **model.artifact["input"]}


def _is_plain(model: Model) -> bool:
    described = model.artifact
    decodes = described["kind"] == "onnx" and described["decode"]["mode"] in {"onnx", "fixed"}
    return decodes and described["input"]["batch"] in {None, 1}


def _contracts(models: Sequence[Model]) -> _Markdown:
    rows = []
    for model in models:
        contract, decode = model.artifact["input"], model.artifact["decode"]
        size = f"{contract['height']}x{contract['width']}" + (" or other" if contract["dynamic_hw"] else "")
        letterbox = f"{contract['placement']}, grey {contract['pad']}"
        thresholds = (number(decode["score_thr"]), number(decode["nms_thr"]), number(decode["max_dets"]))
        batch = str(contract["batch"] or "any")
        rows.append((model.result.name, batch, size, letterbox, decode["mode"], *thresholds))
    head = ("model", "batch", "height x width", "letterbox", "decode", "score above", "NMS IoU", "most detections")
    return _table(head, rows)


def _skeleton(release: Release) -> _Markdown:
    if not release.source.good:
        return _Markdown()
    skeleton = release.source.facts["artifact"]["skeleton"]
    names, sigmas = skeleton["keypoints"], skeleton["sigmas"]
    mirrored = {first: names[second] for pair in skeleton["flip_pairs"] for first, second in (pair, pair[::-1])}
    rows = [
        (str(index), name, mirrored.get(index, name), number(sigmas[index]) if sigmas else "")
        for index, name in enumerate(names)
    ]
    return _table(("index", "name", "in a mirrored image", "OKS sigma"), rows)


def _accuracy(release: Release) -> _Markdown:
    rows = [
        (one.model, *(number(one.metrics.get(name), ".4f") for name in _METRICS), f"{one.data} ({one.scope})")
        for one in accuracies_of(release)
    ]
    published = release.source.facts.get("published")
    if published:
        figures = (number(published["metrics"].get(name), ".4f") for name in _METRICS)
        rows.append(("source, as published", *figures, published["dataset"]))
    return _table(("model", *_METRICS, "data"), rows)


def _parity(release: Release) -> _Markdown:
    rows = [
        (
            f"{one.step.inputs['a']} and {one.step.inputs['b']}",
            str(one.facts["verdict"]),
            *(number(one.facts["people"].get(name)) for name in _PEOPLE),
            str(one.facts["source"]),
        )
        for one in release.of("parity")
        if one.good
    ]
    head = ("models", "verdict", "matched", "missed", "extra", "mean OKS", "keypoints p99, px", "worst, px", "images")
    return _table(head, rows)


def _latency(result: StepRecord) -> _Markdown:
    rows = []
    for entry in result.facts["entries"]:
        times = (number(entry["total_ms"][name], ".2f") for name in ("p50", "p95"))
        rows.append((str(entry["artifact"]), str(entry["contender"]["backend"]), case_of(entry), *times))
    return _table(("model", "runtime", "case", "p50, ms", "p95, ms"), rows)


def _paragraphs(text: str) -> _Markdown:
    """Plain text as Markdown paragraphs; nothing in it is a heading, a list or a rule."""
    parts = [markdown_text(part) for part in re.split(r"\n\s*\n", clean(text)) if part.strip()]
    # "-", "=" and "1." mean something only where a line begins.
    return _Markdown("\n\n".join(re.sub(r"^(\d*)([-=.:])", r"\1\\\2", part) for part in parts))
