"""A loaded model that answers in pieces: what the terminal chat, the page and the release check share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.errors import UserError

Message = dict[str, Any]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy."""

    max_new_tokens: int = 200
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        bounds = (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1"),
        )
        for name, holds, wanted in bounds:
            if not holds:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be {wanted}")

    def arguments(self) -> dict[str, Any]:
        """For ``generate``."""
        common = {"max_new_tokens": self.max_new_tokens, "repetition_penalty": self.repetition_penalty}
        if self.temperature <= 0:
            # None silences what the saved configuration says about sampling.
            return {**common, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        sampled = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {**common, "do_sample": True, **sampled}


class LoadedModel:
    """Tokenizer and weights of one folder.

    Raises:
        UserError: the folder holds no model that transformers can load.
    """

    def __init__(self, folder: Path):
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: holds no model (config.json is missing)")
        for noisy in ("torchao", "torch.utils._pytree"):  # what they say of kernels for GPUs is no news to a reader
            logging.getLogger(noisy).setLevel(logging.ERROR)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.folder = folder
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            # An own argument for the data type: bf16 weights are slow on CPUs without bf16 units.
            dtype = torch.float32 if not torch.cuda.is_available() else "auto"
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        except (OSError, ValueError, KeyError) as e:
            raise UserError(f"{folder}: cannot be loaded ({str(e).splitlines()[0]})") from None
        self.model: Any = model
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.context = int(self.model.config.max_position_embeddings)
        self.chat = self.tokenizer.chat_template is not None

    def encode(
        self, messages: Sequence[Message], max_new_tokens: int, tools: Sequence[dict[str, Any]] | None = None
    ) -> tuple[list[int], int]:
        """Token ids of a conversation that leave room for the answer, and how many old turns had to go.

        A model without chat template continues the last message as plain text.
        """
        # Half of a short context may remember; the answer gets what is left.
        room = max(self.context - max_new_tokens, self.context // 2)
        if not self.chat:
            ids = self.tokenizer(messages[-1]["content"])["input_ids"]
            return ids[-room:], 0
        head = [m for m in messages[:1] if m["role"] == "system"]
        turns = list(messages[len(head) :])
        dropped = 0
        while True:
            rendered = self.tokenizer.apply_chat_template(
                head + turns, tools=list(tools) if tools else None, add_generation_prompt=True, return_dict=True
            )
            ids = rendered["input_ids"]
            if len(ids) <= room or len(turns) <= 1:
                return ids[-room:], dropped
            # Whole exchanges go, so that the conversation still starts with the user.
            gone = next((i for i, m in enumerate(turns[1:], 1) if m["role"] == "user"), len(turns) - 1)
            turns, dropped = turns[gone:], dropped + gone

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        stop: threading.Event | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> Iterator[str]:
        """Pieces of the answer as they are made; closing the iterator or setting ``stop`` ends the generation."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        ended = stop or threading.Event()

        class Stopped(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full((input_ids.shape[0],), ended.is_set(), device=input_ids.device)

        ids, _ = self.encode(messages, sampling.max_new_tokens, tools)
        inputs = torch.tensor([ids], device=self.model.device)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failure: list[BaseException] = []

        def work() -> None:
            try:
                if sampling.seed is not None:
                    torch.manual_seed(sampling.seed)
                self.model.generate(
                    inputs,
                    attention_mask=torch.ones_like(inputs),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([Stopped()]),
                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                    **sampling.arguments()
                    | {"max_new_tokens": max(1, min(sampling.max_new_tokens, self.context - len(ids)))},
                )
            except BaseException as e:
                failure.append(e)
                streamer.end()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            ended.set()
            thread.join()
        if failure:
            raise failure[0]


def find_model(run_root: Path, name: str | None) -> Path:
    """Folder of a model by name: a folder, ``base``, ``instruct``; without a name the best there is.

    Raises:
        UserError: there is no such model.
    """
    if name and (Path(name) / "config.json").is_file():
        return Path(name)
    for candidate in [name] if name else ["instruct", "base"]:
        for folder in (run_root / candidate, run_root / "release" / candidate):
            if (folder / "config.json").is_file():
                return folder
    made = [k for k in ("instruct", "base") if (run_root / k / "config.json").is_file()]
    what = f"model {name!r}" if name else "model"
    there = f" (there is: {', '.join(made)})" if made else ""
    raise UserError(f"{run_root}: has no {what}{there}; make one with: duetto run")
