"""Verb ``report``: one HTML file about the whole run, that opens from disk anywhere.

    duetto report                       # report/index.html
    duetto report --live --every 30     # written again while training runs; the page reloads itself
    duetto report --samples             # with what each kept checkpoint says to the same prompts

The page has no script but the reload, no font and no image from elsewhere: plots are SVG inside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jinja2

from duetto.console import duration, log
from duetto.errors import UserError
from duetto.files import atomic_write, read_json, write_json
from duetto.run import Run
from release.checkpoints import committed_steps, converted
from release.render import TEMPLATES
from release.report_data import collect
from release.sample import ask

SAMPLED = 8
"""Checkpoints at most that are asked for samples, first and last among them."""

LIMIT = 3_000_000
"""Bytes; beyond it the file is no longer something to send by mail."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--live", action="store_true", help="write it again until training has finished")
    parser.add_argument("--samples", action="store_true", help="let the kept checkpoints continue the same prompts")
    parser.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="with --live (default: 30)")


def run(run: Run, args: argparse.Namespace) -> None:
    """Write the report once, or until pretraining is done."""
    live = getattr(args, "live", False)
    if live and args.every < 1:
        raise UserError(f"--every {args.every:g}: give at least 1 second")
    if getattr(args, "samples", False):
        sample_checkpoints(run)
    while True:
        more = live and run.manifest("pretrain") is None
        path = write_report(run, refresh=args.every if more else None)
        log(f"report: {path} ({path.stat().st_size / 1e3:.0f} kB)")
        if not more:
            return
        time.sleep(args.every)


def sample_checkpoints(run: Run) -> None:
    """Add what checkpoints say, spread over the training, to ``report/samples.json``; each is asked once."""
    file = run.path("report", "samples.json")
    known = read_json(file) if file.is_file() else {}
    steps = committed_steps(run)
    if not steps:
        raise UserError(f"{run.path('pretrain', 'checkpoints')}: holds no complete checkpoint to sample from")
    spread = [steps[round(i * (len(steps) - 1) / max(1, SAMPLED - 1))] for i in range(SAMPLED)]
    for step in dict.fromkeys(spread):
        if str(step) not in known:
            known[str(step)] = ask(converted(run, step), run.recipe.languages)["texts"]
            log(f"report: sampled the checkpoint of step {step}")
            write_json(file, known)


def write_report(run: Run, refresh: float | None = None) -> Path:
    """Write ``report/index.html``.

    Raises:
        UserError: there is nothing to report about.
    """
    if not run.root.is_dir() or not any(run.root.iterdir()):
        raise UserError(f"{run.root}: there is no run to report about; start one with: duetto run")
    from release.report_plots import all_plots

    data = collect(run)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"n": whole, "d": duration, "f": fixed, "pct": percent, "size": size}
    plots = {name: jinja2.utils.markupsafe.Markup(svg) for name, svg in all_plots(data).items()}
    page = environment.get_template("report.html.j2").render(
        d=data, plots=plots, refresh=refresh, written=time.strftime("%Y-%m-%d %H:%M:%S")
    )
    path = run.path("report", "index.html")
    with atomic_write(path) as f:
        f.write(page)
    if path.stat().st_size > LIMIT:
        log(f"report: {path} has {path.stat().st_size / 1e6:.1f} MB, more than the {LIMIT / 1e6:.0f} MB meant for it")
    return path


def whole(value: Any) -> str:
    return "–" if value is None else f"{round(value):,}"


def fixed(value: Any, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: Any) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def size(value: Any) -> str:
    if value is None:
        return "–"
    return next(f"{value / s:.1f} {u}" for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if value >= s or u == "kB")
