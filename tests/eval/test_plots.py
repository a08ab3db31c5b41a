"""Plots of two models and published figures, pinned by golden files: same numbers, same bytes."""

from pathlib import Path

from eval.plots import plot_tables, progress_curve
from eval.progress import curves
from eval.published import load_published
from eval.tables import Loaded, build
from tests.eval.test_progress import ENTRY, at
from tests.eval.test_tables import ENTRIES, GOLDEN, PUBLISHED, SUITE, against_golden, make, two_models


def test_golden_plots_of_two_models_beside_the_published_figures(tmp_path):
    content = build(SUITE, two_models(), load_published("configs/eval/published.yaml"))
    paths = plot_tables(tmp_path, content)
    assert [p.name for p in paths] == ["bars-en.svg", "radar-en.svg", "bars-it.svg", "radar-it.svg", "heatmap.svg"]
    against_golden(paths, GOLDEN / "published-plots")


def test_golden_plots_with_missing_cells_and_a_curve(tmp_path):
    scores = {"hellaswag": (0.41, 0.46), "cloze_en": (0.8, 0.79), "m_mmlu_it": (0.26, 0.27), "ifeval-ita": (0.1, 0.3)}
    results = [make(m, t, v[i]) for t, v in scores.items() for i, m in enumerate(("base", "instruct"))]
    paths = plot_tables(tmp_path, build(ENTRIES, [Loaded(Path("x"), r, True) for r in results], PUBLISHED))
    assert [p.name for p in paths] == ["bars-en.svg", "bars-it.svg", "heatmap.svg"]
    (curve,) = curves([ENTRY], [at(step, 0.25 + step / 4000) for step in (100, 200, 300, 400)])
    against_golden([*paths, progress_curve(tmp_path / "curve.svg", {**curve, "chosen": 400})], GOLDEN / "plots")


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
