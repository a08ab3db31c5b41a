"""Import nanotron although its modules import each other in circles."""

import sys
import types
import warnings


def import_nanotron() -> None:
    """nanotron 0.4: logging -> config (for one annotation) -> pipeline engine -> logging.

    nanotron.logging is imported first, with an empty stand-in for nanotron.config that is dropped at once. The second
    cycle (optim <-> pipeline_parallel) is harmless when it is entered through nanotron.config.
    """
    if "nanotron.trainer" in sys.modules:
        return
    warnings.filterwarnings("ignore", category=FutureWarning, module="nanotron")
    config, inner = types.ModuleType("nanotron.config"), types.ModuleType("nanotron.config.config")
    config.__path__ = []
    inner.LoggingArgs = object  # type: ignore[attr-defined]
    if "nanotron.config" not in sys.modules:
        sys.modules["nanotron.config"], sys.modules["nanotron.config.config"] = config, inner
        try:
            import nanotron.logging
        finally:
            del sys.modules["nanotron.config"], sys.modules["nanotron.config.config"]
    _grouped_gemm()
    _light_start()
    import nanotron.config
    import nanotron.trainer  # noqa: F401


def _light_start() -> None:
    """nanotron.dataloader pulls in datasets, pandas and transformers (4 of 8 seconds of start-up on every rank), and
    wandb another; our loader replaces the former and nothing of either is called."""
    if "nanotron.dataloader" not in sys.modules:
        loader = types.ModuleType("nanotron.dataloader")
        loader.sanity_check_dataloader = lambda dataloader, **_: dataloader  # type: ignore[attr-defined]
        sys.modules["nanotron.dataloader"] = loader
    sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]  # import wandb -> ImportError -> nanotron goes without


def _grouped_gemm() -> None:
    """nanotron main: nn/moe.py, which everything imports, raises without the CUDA-only grouped_gemm; dense models
    never call it."""
    import importlib.util

    if importlib.util.find_spec("nanotron.nn.moe") is None or importlib.util.find_spec("grouped_gemm") is not None:
        return
    package, ops = types.ModuleType("grouped_gemm"), types.ModuleType("grouped_gemm.ops")
    package.ops = ops  # type: ignore[attr-defined]
    sys.modules["grouped_gemm"], sys.modules["grouped_gemm.ops"] = package, ops
