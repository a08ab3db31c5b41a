"""The Hub's rules for a card's metadata, checked without the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from release.render import TEMPLATES

RULES = yaml.safe_load((TEMPLATES / "hub_rules.yaml").read_text(encoding="utf-8"))

REPO = re.compile(r"^[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?$")


def problems(data: Any) -> Iterator[str]:
    """Everything the Hub would refuse or ignore in a metadata block."""
    if not isinstance(data, dict):
        yield "there is no metadata block (--- YAML --- at the top)"
        return
    for key in ("language", "license", "library_name", "pipeline_tag", "tags", "model-index"):
        if not data.get(key) and key != "model-index":
            yield f"metadata: {key} is missing"
    for code in _strings(data.get("language")):
        if code not in RULES["languages"] and not re.fullmatch(r"[a-z]{3}", code):
            yield f"metadata: language {code!r} is no ISO 639 code"
    licence = data.get("license")
    if licence and licence not in RULES["licenses"]:
        yield f"metadata: license {licence!r} is not on the Hub's list; use 'other' with license_name and license_link"
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        yield "metadata: license 'other' needs license_name and license_link"
    if data.get("pipeline_tag") not in (None, "text-generation"):
        yield f"metadata: pipeline_tag {data['pipeline_tag']!r} is not text-generation"
    for key in ("base_model", "datasets"):
        for repo in _strings(data.get(key)):
            if not REPO.match(repo) or "--" in repo or ".." in repo:
                yield f"metadata: {key} {repo!r} is no Hub id"
    for tag in data.get("tags") or []:
        if not isinstance(tag, str) or not tag or len(tag) > 60:
            yield f"metadata: tag {tag!r} is no short text"
    yield from _index(data.get("model-index"))


def _strings(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)] if value else []


def _index(index: Any) -> Iterator[str]:
    if index is None:
        return
    if not isinstance(index, list):
        yield "metadata: model-index must be a list"
        return
    seen = set()
    for model in index:
        if not model.get("name"):
            yield "metadata: model-index has no name"
        for result in model.get("results") or []:
            dataset, task, metrics = result.get("dataset") or {}, result.get("task") or {}, result.get("metrics") or []
            name = dataset.get("name")
            if not (task.get("type") and dataset.get("type") and name and metrics):
                yield f"metadata: model-index: result {name!r} lacks task.type, dataset.type, dataset.name or metrics"
            for metric in metrics:
                if not metric.get("type") or not isinstance(metric.get("value"), int | float):
                    yield f"metadata: model-index: a metric of {name!r} lacks a type or a number"
                key = (name, str(dataset.get("args")), metric.get("type"), metric.get("name"))
                if key in seen:
                    yield f"metadata: model-index: {name!r} is there twice"
                seen.add(key)
