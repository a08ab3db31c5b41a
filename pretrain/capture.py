"""The state of a trainer as files to be written: nanotron's own savers, with their writes recorded instead of done.

The folder is one that nanotron can read; training stops only for the copy to host memory.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from nanotron.serialize import save_lr_scheduler, save_optimizer, save_random_states, save_weights
from nanotron.serialize.metadata import save_meta

from pretrain.checkpoints import Write
from pretrain.compat import device_mode, fixes
from pretrain.muon import Muon


def capture(trainer: Any, folder: Path, step: int) -> list[Write]:
    """This rank's files of the checkpoint after ``step`` (counted inside the job). Every rank calls it."""
    folder.mkdir(parents=True, exist_ok=True)
    context, base = trainer.parallel_context, trainer.optimizer.get_base_optimizer()
    trainer.config.general.step = step
    trainer.config.general.consumed_train_samples = trainer.consumed_train_samples
    with device_mode(), fixes.recorded_writes() as writes:
        save_weights(model=trainer.unwrapped_model, parallel_context=context, root_folder=folder)
        if isinstance(base, Muon):
            base.gather_state()
        save_optimizer(optimizer=trainer.optimizer, parallel_context=context, root_folder=folder)
        if isinstance(base, Muon):
            base.drop_foreign_state()
        save_lr_scheduler(trainer.lr_scheduler, context, folder)
        save_random_states(trainer.random_states, context, folder)
    if trainer.rank == 0:
        trainer.config.save_as_yaml(folder / "config.yaml")
        (folder / "model_config.json").write_text(json.dumps(dataclasses.asdict(trainer.model_config)))
        metas = {"last_train_step": step, "consumed_train_samples": trainer.consumed_train_samples}
        save_meta(context, folder, metas)
        small = ("config.yaml", "model_config.json", "checkpoint_metadata.json")
        writes += [(folder / name, lambda path: None) for name in small]  # on disk already; COMMIT lists them
    return writes
