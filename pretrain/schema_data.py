"""``data_stages``: token folders with explicit weights, by stretch of steps."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pretrain.schema import Section


class NanosetDataset(Section):
    dataset_folder: list[str]
    """Folders of datatrove token files (.ds)."""
    dataset_weights: list[float] = []
    """Share of each folder in the samples of the stage; needed as soon as there are two folders."""
    dataset_read_path: list[str] | None = None
    """Local copies to read instead of dataset_folder, where they exist."""
    tokenizer_name: str | None = None
    """Checked against the tokenizer that the token files name."""
    vocab_size: int | None = None
    """Checked against the model's."""
    token_size_in_bytes: Literal[2, 4] | None = None
    """Checked against the token files."""
    return_positions: bool = True
    """Read the ends of documents from the .index files; document masking needs them."""
    skip_in_stream: bool | None = False
    pad_samples_to_global_batch_size: bool | None = False
    dataset_max_tokens: None = None
    shuffle_files: bool | None = False
    """Windows are always shuffled across all files of a source; nanotron shuffles none, or whole files."""
    use_old_brrr_dataloader: bool | None = False

    only = {
        "skip_in_stream": ((False, None), "the loader addresses samples by number and needs no skipping"),
        "pad_samples_to_global_batch_size": ((False, None), "the sample schedule fills every batch"),
        "dataset_max_tokens": ((None,), "set a token budget for the source in the data configuration"),
        "use_old_brrr_dataloader": ((False, None), "the loader reads datatrove's files by itself"),
    }

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, value: Any) -> Any:
        """One folder as a string, or folders with their weights as a mapping (the older form)."""
        if not isinstance(value, dict):
            return value
        for key in value:
            if key.startswith("hf_dataset") or key == "sft_dataloader":
                raise ValueError(f"{key}: raw datasets cannot be trained on; name them in the data configuration "
                                 "and run: duetto tokenize")  # fmt: skip
        out, folder = dict(value), value.get("dataset_folder")
        if isinstance(folder, str):
            out["dataset_folder"], out["dataset_weights"] = [folder], [1.0]
        elif isinstance(folder, dict):
            if out.get("dataset_weights"):
                raise ValueError("dataset_weights stands beside a dataset_folder that has weights; keep one")
            out["dataset_folder"], out["dataset_weights"] = list(folder), list(folder.values())
        elif isinstance(folder, list) and len(folder) == 1:
            out["dataset_weights"] = [1.0]
        if isinstance(out.get("dataset_read_path"), str):
            out["dataset_read_path"] = [out["dataset_read_path"]]
        return out

    @model_validator(mode="after")
    def _weights(self) -> "NanosetDataset":
        n = len(self.dataset_folder)
        if not self.dataset_weights:
            raise ValueError(
                f"dataset_weights is missing for {n} folders: nanotron would then draw the same number of samples from "
                "each folder, whatever its size; write one weight a folder, or leave data_stages out and give token "
                "budgets in the data configuration"
            )
        if len(self.dataset_weights) != n:
            raise ValueError(f"dataset_weights has {len(self.dataset_weights)} numbers for {n} folders")
        if min(self.dataset_weights) < 0 or sum(self.dataset_weights) <= 0:
            raise ValueError("dataset_weights must not be negative, and not all zero")
        if self.dataset_read_path is not None and len(self.dataset_read_path) != n:
            raise ValueError(f"dataset_read_path has {len(self.dataset_read_path)} folders for {n} in dataset_folder")
        return self

    @property
    def folders(self) -> list[str]:
        """Where to read each folder: its local copy where there is one."""
        copies = self.dataset_read_path or self.dataset_folder
        return [c if Path(c).is_dir() else f for f, c in zip(self.dataset_folder, copies)]

    @property
    def shares(self) -> list[float]:
        """The weights, summing to one."""
        total = sum(self.dataset_weights)
        return [w / total for w in self.dataset_weights]


class StageData(Section):
    dataset: NanosetDataset
    seed: int | None = 42
    """Of the order of the samples."""
    num_loading_workers: int = Field(default=1, ge=0)
    """Processes that read ahead for each rank; 0 reads in the training loop."""

    @field_validator("dataset", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError(
                "null means random tokens in nanotron; name token folders, or use python -m bench.pretrain"
            )
        return value


class DataStage(Section):
    name: str
    start_training_step: int = Field(ge=1)
    """First step that draws from this stage; the first stage starts at 1."""
    data: StageData
    sequence_length: int | None = None
    """Must equal tokens.sequence_length: another length is another file in the recipe's pretrain list."""
