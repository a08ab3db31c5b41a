"""The sample sequence of a data stage; light to import, because the parent opens it too, to check it."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from duetto.errors import UserError
from pretrain.job import DataStage


class Samples(Protocol):
    """What training needs of data.loader.Mixture."""

    vocab_size: int | None

    def batch(self, first: int, count: int) -> NDArray[np.int64]: ...

    def positions(self, tokens: NDArray[Any]) -> NDArray[np.int32]: ...

    def require(self, samples: int) -> None: ...


def open_samples(
    stage: DataStage, sequence_length: int, eos_id: int | None, vocab_size: int, max_epochs: float | None = None
) -> Samples:
    """The sample sequence of a data stage.

    Raises:
        UserError: shards are missing, changed or of another tokenizer.
    """
    from data.loader import Mixture, open_folders, open_mixture

    found: Mixture
    if stage.mixture:
        found = open_mixture(stage.mixture, stage=stage.mixture_stage, sequence_length=sequence_length, seed=stage.seed)
    else:
        found = open_folders(
            stage.folders,
            stage.weights,
            sequence_length=sequence_length,
            seed=stage.seed,
            eos_id=eos_id,
            vocab_size=vocab_size,
            max_epochs=max_epochs,
        )
    if found.vocab_size is not None and found.vocab_size > vocab_size:
        raise UserError(
            f"the token files of stage {stage.name} have {found.vocab_size:,} ids, the model has "
            f"{vocab_size:,}; run duetto tokenize with the model's tokenizer, or change model_config.vocab_size"
        )
    return found
