"""The command line: ``duetto VERB [--recipe FILE] [key=value ...]``.

A verb lives in the module of its stage as ``run(run, args)`` (and ``add_arguments(parser)``); the module is imported
when the verb is called, so that ``duetto --help`` and a skipped stage stay quick.
"""

import argparse
import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from duetto.console import errors
from duetto.errors import CRASHED, DONE, PREEMPTED, WRONG_INPUT, Preempted, StageFailed, UserError
from duetto.files import disk_full
from duetto.process import OFFLINE, engine_env
from duetto.recipe import ROOT, load_recipe, nearest
from duetto.run import Run

_OVERRIDE = re.compile(r"[a-z][\w.-]*=")
"""Told apart before argparse, where an option of many values (--models base instruct) would swallow them."""

DEFAULT_RECIPE = ROOT / "configs" / "recipes" / "demo.yaml"


@dataclass(frozen=True)
class Verb:
    module: str
    help: str
    locks: bool = True
    """Whether it writes to the run folder and so must be alone there."""
    json: bool = False
    """Whether it takes ``--json``."""
    online: bool = False
    """Whether it may talk to the Hub."""


VERBS = {
    "run": Verb("duetto.pipeline", "every stage in order, then one table of what came out"),
    "plan": Verb("pretrain.plan", "parameters, FLOPs, memory, days, cost, before a run", locks=False, json=True),
    "doctor": Verb("pretrain.doctor", "named checks of recipe, machine and run folder", locks=False, json=True),
    "fetch": Verb("data.fetch", "bring all that a recipe needs to this machine (login node)", online=True),
    "tokenize": Verb("data.stage", "sources to tokens to mixture"),
    "pretrain": Verb("pretrain.stage", "train the stages; resumes by itself"),
    "convert": Verb("pretrain.convert_stage", "checkpoint to Hugging Face format, refused without logits parity"),
    "sft": Verb("sft.stage", "ChatML fine-tuning with Axolotl"),
    "dpo": Verb("sft.dpo", "preference tuning with Axolotl"),
    "masks": Verb("sft.masks", "show which tokens of a conversation are trained", locks=False, json=True),
    "eval": Verb("eval.stage", "benchmarks and tables", json=True),
    "card": Verb("release.card_stage", "model card and release folder from the manifests"),
    "export": Verb("release.export", "GGUF files for edge devices"),
    "push": Verb("release.push", "upload to the Hub, private unless --public", online=True),
    "chat": Verb("release.chat", "talk to the model in the terminal, or --web", locks=False),
    "report": Verb("release.report", "one HTML file about the whole run", locks=False),
    "submit": Verb("slurm.submit", "the whole graph on SLURM", locks=False),
    "status": Verb("slurm.status", "what is done, running, failed", locks=False, json=True),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="duetto",
        description="Train a small bilingual language model from scratch, and publish it.",
        epilog="Any value of the recipe can be overridden: duetto pretrain pretrain.tokens.micro_batch_size=4",
    )
    commands = top.add_subparsers(dest="verb", metavar="VERB")
    for name, verb in VERBS.items():
        if _exists(verb.module):
            commands.add_parser(name, help=verb.help, add_help=False)
    return top


def _exists(module: str) -> bool:
    return (ROOT / (module.replace(".", "/") + ".py")).is_file()


def verb_parser(name: str) -> argparse.ArgumentParser:
    """Options of one verb; imports its module."""
    verb = VERBS[name]
    p = argparse.ArgumentParser(prog=f"duetto {name}", description=verb.help)
    p.add_argument(
        "--recipe", type=Path, default=DEFAULT_RECIPE, metavar="FILE", help="recipe YAML (default: %(default)s)"
    )
    p.add_argument("--force", action="store_true", help="do the stage again although nothing changed")
    if verb.json:
        p.add_argument("--json", action="store_true", help="machine-readable output")
    module = importlib.import_module(verb.module)
    if hasattr(module, "add_arguments"):
        module.add_arguments(p)
    p.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the recipe, dots between keys")
    return p


def dispatch(argv: Sequence[str]) -> int:
    """Parse and run; raises UserError and its kin."""
    if not argv or argv[0] in ("-h", "--help"):
        parser().print_help()
        return DONE
    name = argv[0]
    if name not in VERBS or not _exists(VERBS[name].module):
        raise UserError(f"{name!r} is no verb{nearest(name, list(VERBS))}; duetto --help lists them")
    verb = VERBS[name]
    for key, value in engine_env().items():
        if not (verb.online and key in OFFLINE):
            os.environ.setdefault(key, value)
    overrides = [a for a in argv[1:] if _OVERRIDE.match(a)]
    args = verb_parser(name).parse_intermixed_args([a for a in argv[1:] if not _OVERRIDE.match(a)])
    args.overrides = [*overrides, *args.overrides]  # submit hands them on to its jobs
    recipe = load_recipe(args.recipe, args.overrides)
    module = importlib.import_module(verb.module)
    # `eval --checkpoints` follows a pretraining that holds the folder; it has a lock of its own below progress/.
    with Run(recipe, lock=verb.locks and not getattr(args, "checkpoints", False)) as run:
        module.run(run, args)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: exit codes are 0 done, 1 crash, 2 wrong input, 3 preempted with everything saved."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGUSR1, _preempt)
    try:
        code = dispatch(sys.argv[1:] if argv is None else argv)
    except UserError as e:
        errors.print(f"error: {e}", markup=False)
        code = WRONG_INPUT
    except Preempted as e:
        errors.print(f"preempted: {e}", markup=False)
        code = PREEMPTED
    except StageFailed as e:
        errors.print(f"failed: {e}", markup=False)
        code = CRASHED
    except KeyboardInterrupt:
        errors.print("interrupted; run the same command again to continue")
        code = 128 + signal.SIGINT
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        errors.print(f"error: {disk_full(Path(e.filename or os.getcwd()))}", markup=False)
        code = WRONG_INPUT
    if argv is None:
        sys.exit(code)
    return code


def _preempt(signum: int, frame: FrameType | None) -> None:
    """SLURM's warning where no stage has a better answer: what is done is kept, the job is queued again."""
    raise Preempted("asked to stop; run the same command again to continue")


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
