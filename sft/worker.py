"""One process of an Axolotl run: ``python -m sft.worker axolotl.yaml`` is ``python -m axolotl.cli.train axolotl.yaml``
that ends with its parent and says in one line what the user got wrong. torchrun starts one for each rank.
"""

import gc
import sys
import traceback

from duetto.errors import UserError
from duetto.process import worker_main


def main() -> None:
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.cli.train import do_train
    from pydantic import ValidationError

    # Axolotl collects garbage after each of a dozen packing estimates, 0.4 s each over what the imports made.
    gc.freeze()
    try:
        cfg = load_cfg(sys.argv[1])
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(x) for x in first["loc"]) or "configuration"
        raise UserError(f"{sys.argv[1]}: {key}: {first['msg']} (Axolotl refuses the file)") from None
    try:
        do_train(cfg, TrainerCliArgs())
    except ValueError as e:  # what Axolotl and transformers raise for a setting that they cannot use
        traceback.print_exc()
        raise UserError(f"{sys.argv[1]}: {str(e).splitlines()[0]} (the traceback is in the log)") from None


if __name__ == "__main__":
    worker_main(main)
