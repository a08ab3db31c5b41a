"""The run report: one file, complete, quick, and looked at in headless Chromium."""

import argparse
import json
import re
import time
from types import SimpleNamespace

import pytest

from duetto.errors import UserError
from release import report
from release.config import Energy
from release.facts import CardFacts
from release.render import Renderer
from release.report_data import POINTS, cost, restarts, thin
from release.tables import Tables
from release.traced import Document
from tests.release.browser import Browser


def arguments(**changed):
    return argparse.Namespace(**{"force": False, "live": False, "every": 30.0, **changed})


def written(run):
    return run.path("report", "index.html").read_text()


def test_it_is_quick_small_and_self_contained(a_run):
    run = a_run()
    start = time.monotonic()
    report.run(run, arguments())
    page = written(run)
    assert len(page) < 3_000_000 and time.monotonic() - start < 30
    # xmlns and the SVG doctype's names are no requests; src and href are.
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page) and "<script" not in page and "@import" not in page
    assert str(run.root) not in page and "secret-host" not in page
    # What a document held is text, not markup.
    assert "alert(1)" not in page or "&lt;script&gt;" in page


def test_key_figures_and_sections(a_run):
    run = a_run()
    report.run(run, arguments())
    page = written(run)
    for expected in ("12,800", "5.75 →", "40.0 %", "too short 30, contaminated 10", "0.790 ± 0.020", "cloze_it"):
        assert expected in page, expected
    for section in ("data", "training", "evaluation", "samples", "cost", "environment", "files"):
        assert f'<h2 id="{section}">' in page
    assert page.count("<svg") >= 7
    assert '<a href="../manifests/pretrain.json">' in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("width", "mobile"), [(1200, False), (390, True)])
def test_in_the_browser(shown, tmp_path, pictures, width, mobile):
    run = shown
    report.run(run, arguments())
    with Browser(tmp_path / "profile", width, 900, mobile) as browser:
        browser.open(run.path("report", "index.html").as_uri())
        assert browser.errors == []
        tokens = run.manifest("pretrain")["metrics"]["tokens"]
        assert f"{tokens:,}" in browser.evaluate("document.querySelector('#figures').innerText")
        # Nothing sticks out: no sideways scrolling of the page on a phone.
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate(
            "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 100)"
        )
        assert all(u.startswith(("file:", "data:")) for u in browser.requests)
        browser.screenshot(pictures / f"report-{'phone' if mobile else 'desk'}.png", whole_page=not mobile)
        if not mobile:
            pdf = browser.print_pdf(tmp_path / "report.pdf").read_bytes()
            assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8


def test_samples_over_the_training(a_run, monkeypatch, capsys):
    run = a_run()
    for step in range(5, 55, 5):
        run.path("pretrain", "checkpoints", str(step)).mkdir(parents=True)
        run.path("pretrain", "checkpoints", str(step), "COMMIT").write_text("{}")
    asked = []
    monkeypatch.setattr("release.report.converted", lambda run, step: step)
    monkeypatch.setattr(
        "release.report.ask", lambda step, languages: asked.append(step) or {"texts": {"it": f" <al passo {step}>"}}
    )
    report.run(run, arguments(samples=True))
    assert len(asked) == 8 and asked[0] == 5 and asked[-1] == 50
    assert "<b>C&#39;era una volta</b> &lt;al passo 50&gt;" in written(run)
    report.run(run, arguments(samples=True))
    assert len(asked) == 8, "each is asked once"


def test_a_run_that_has_only_begun(a_run):
    run = a_run()
    for stage in ("pretrain", "convert", "sft", "eval"):
        run.path("manifests", f"{stage}.json").unlink()
    with run.path("pretrain", "metrics.jsonl").open("a") as f:
        f.write('{"step": 51, "lo')
    report.run(run, arguments())
    page = written(run)
    assert '<h2 id="training">' in page and '<h2 id="evaluation">' not in page and "50 / 50" in page


def test_an_unreadable_file_is_named_not_fatal(a_run):
    run = a_run()
    run.path("tokens", "mixture.json").write_text("{torn")
    report.run(run, arguments())
    assert "mixture.json: not valid JSON" in written(run)


def test_live_reloads_until_training_is_done(a_run, monkeypatch):
    run = a_run()
    manifest = run.path("manifests", "pretrain.json")
    content = manifest.read_text()
    manifest.unlink()
    pages = []

    def sleep(seconds):
        pages.append(written(run))
        manifest.write_text(content)

    monkeypatch.setattr("release.report.time.sleep", sleep)
    report.run(run, arguments(live=True, every=5))
    assert len(pages) == 1 and 'http-equiv="refresh" content="5"' in pages[0]
    assert "http-equiv" not in written(run)


def test_nothing_to_report(a_run, tmp_path):
    run = a_run()
    run.root = tmp_path / "nowhere"
    with pytest.raises(UserError, match="no run to report"):
        report.run(run, arguments())


def test_a_million_steps_stay_small():
    xs = list(range(1_000_000))
    thinned = thin(xs, [float(x) for x in xs])
    assert len(thinned[0]) <= POINTS and thinned[0][-1] == 999_999


def test_restarts_are_counted_where_goodput_begins_again():
    shares = [0.2, 0.5, 0.8, 0.9, 0.3, 0.6, 0.9, 0.88]
    assert restarts([{"goodput": s} for s in shares]) == 1
    assert restarts([{"loss": 1.0}]) is None


def test_scores_of_one_model_only(a_run):
    run = a_run()
    manifest = json.loads(run.path("manifests", "eval.json").read_text())
    del manifest["metrics"]["scores"]["instruct"]
    run.path("manifests", "eval.json").write_text(json.dumps(manifest))
    report.run(run, arguments())
    assert "0.810 ± 0.020" in written(run)


def test_gpus_of_every_stage_count_in_cost_and_energy():
    """Report and card: 16 GPUs for an hour, 4 for another, and a CPU stage that costs the machine's own watts."""
    energy = {"watts_per_device": 400, "pue": 1.0}
    recipe = {"pretrain": [{"parallelism": {"dp": 16, "tp": 1, "pp": 1}}], "release": {"energy": energy}}
    host = {"cpus": 128, "machine": "x86_64", "gpus": ["A100-SXM4-80GB"] * 8}
    manifests = {
        "pretrain": {"seconds": 3600, "metrics": {}, "host": host},
        "sft": {"seconds": 3600, "metrics": {"processes": 4}, "host": host},
        "eval": {"seconds": 36, "metrics": {}, "host": {"cpus": 128, "machine": "x86_64"}},
    }
    cluster, release = SimpleNamespace(price_per_gpu_hour=2.0), SimpleNamespace(energy=Energy(**energy))
    run = SimpleNamespace(recipe=SimpleNamespace(cluster=cluster, release=release, resolved=recipe))
    found = cost(run, manifests)
    assert (found["gpu_hours"], found["gpu_price"]) == (20, 40) and found["kwh"] == pytest.approx(8.004)
    facts = object.__new__(CardFacts)
    facts.recipe = Document(recipe, "recipe.yaml")
    facts.m = {k: Document(m, f"manifests/{k}.json") for k, m in manifests.items()}
    assert facts.energy["kwh"].value == pytest.approx(8.004)
    renderer = Renderer("en")
    assert renderer.unmark(Tables(renderer, facts).gpus("pretrain"))[0] == "16 x A100-SXM4-80GB"
