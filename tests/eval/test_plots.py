"""Plots of two models and published figures, pinned by golden files: same numbers, same bytes."""

from pathlib import Path

import pytest

from eval.plots import plot_tables, progress_curve
from eval.progress import curves
from tests.eval.test_progress import ENTRY, at
from tests.eval.test_tables import ENTRIES, PUBLISHED, build, make

GOLDEN = Path(__file__).parent / "golden" / "plots"


def draw(folder):
    from eval.tables import Loaded

    scores = {"hellaswag": (0.41, 0.46), "cloze_en": (0.8, 0.79), "m_mmlu_it": (0.26, 0.27), "ifeval-ita": (0.1, 0.3)}
    results = [make(m, t, v[i]) for t, v in scores.items() for i, m in enumerate(("base", "instruct"))]
    paths = plot_tables(folder, build(ENTRIES, [Loaded(Path("x"), r, True) for r in results], PUBLISHED))
    (curve,) = curves([ENTRY], [at(step, 0.25 + step / 4000) for step in (100, 200, 300, 400)])
    return [*paths, progress_curve(folder / "curve.svg", {**curve, "chosen": 400})]


def test_golden_plots(tmp_path):
    """Whoever changes the plots looks at them: rm -r tests/eval/golden/plots, run twice, open the files."""
    paths = draw(tmp_path)
    assert [p.name for p in paths] == ["bars-en.svg", "bars-it.svg", "heatmap.svg", "curve.svg"]
    if not GOLDEN.exists():
        GOLDEN.mkdir(parents=True)
        for path in paths:
            (GOLDEN / path.name).write_bytes(path.read_bytes())
        pytest.fail(f"{GOLDEN} was missing and is now written; look at it and run again")
    for path in paths:
        assert path.read_text() == (GOLDEN / path.name).read_text(), path.name


def test_every_model_differs_without_colour():
    from eval.plots import COLOURS, HATCHES, LINES, MARKERS

    assert len(set(COLOURS)) == len(COLOURS) == len(set(HATCHES)) == len(set(MARKERS)) == 8
    assert len({(LINES[i % 4], MARKERS[i]) for i in range(8)}) == 8


def test_radar_leaves_out_models_with_a_missing_cell(tmp_path):
    from eval.plots import radar

    def cell(value):
        return {"value": value, "stderr": 0.01, "published": False}

    columns = [{"name": "whole", "published": None}, {"name": "holed", "published": None}]
    rows = [
        {"label": f"task {i}", "chance": 0.25, "cells": {"whole": cell(0.3), "holed": cell(0.4) if i else None}}
        for i in range(3)
    ]
    text = radar(tmp_path / "r.svg", "it", {"columns": columns, "rows": rows}).read_text()
    assert ">whole<" in text and ">holed<" not in text and ">chance<" in text
