"""What the fork server of tests/pretrain/ranks.py imports before it forks: the engine, patched, and nothing running."""

import importlib
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DUETTO_DEVICE"] = "cpu"

from pretrain import compat

compat.install()

# The last two are imported late, by the first optimizer and by the converter: 2 s each.
for name in ("data.loader", "pretrain.trainer", "torch._dynamo", "transformers.models.llama.modeling_llama"):
    importlib.import_module(name)
