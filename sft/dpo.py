"""``duetto dpo``: preference tuning of the chat model, with Axolotl.

    duetto dpo --recipe RECIPE dpo=configs/sft/dpo.yaml

Starts from ``instruct/``, trains on preference pairs, and writes ``dpo/model``; the chat model that it started from
stays. At 0.4 B it hurt the published model's benchmarks, so compare before you release it.
"""

import argparse
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import sha256_file
from duetto.run import Run
from duetto.stage import Job, Stage
from sft import chatml, launch
from sft.export import export
from sft.stage import local_files, synthesize, train


def run(run: Run, args: argparse.Namespace) -> None:
    section = run.recipe.dpo
    if section is None:
        raise UserError(f"{run.recipe.file}: the recipe has no 'dpo'; add dpo=configs/sft/dpo.yaml")
    synthesize(section)
    Stage(
        name="dpo",
        version=1,
        config={"axolotl": launch.plain(section), "template": sha256_file(chatml.TEMPLATE_FILE)},
        inputs=["sft"],
        files=local_files(section),
        outputs=[run.path("dpo")],
        unhashed=["dpo/prepared/*", "dpo/checkpoint-*", "dpo/*.log"],
        work=work,
    ).execute(run, force=args.force)


def prepared_entry(path: Path) -> dict[str, Any]:
    """The Axolotl dataset entry of prepared pairs."""
    return {
        "path": str(path),
        "ds_type": "json",
        "split": "train",
        "type": "chat_template.default",
        "field_messages": "messages",
        "field_chosen": "chosen",
        "field_rejected": "rejected",
        "message_property_mappings": {"role": "role", "content": "content"},
    }


def work(job: Job) -> dict[str, Any]:
    run, section = job.run, job.run.recipe.dpo
    assert section is not None
    lines, metrics = train(run, "dpo", section, prepared_entry, pairs=True)
    margins = [x["rewards/margins"] for x in lines if "rewards/margins" in x]
    metrics |= {"margin_first": round(margins[0], 4), "margin_last": round(margins[-1], 4)}
    return metrics | export(run.path("dpo"), Path(section["base_model"]), run.path("dpo", "model"))
