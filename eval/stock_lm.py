"""lm-eval's own Hugging Face backend, plus a count of the requests that were too long for the context."""

from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs


class StockLM(HFLM):
    """``truncated`` says how many requests lost their beginning since it was last set to 0."""

    truncated = 0

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        self.truncated += sum(len(context) + len(choice) > self.max_length + 1 for _, context, choice in requests)
        return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            prompt, keywords = request.args
            room = self.max_length - normalize_gen_kwargs(keywords, self.max_gen_toks)["max_gen_toks"]
            self.truncated += len(self.tok_encode(prompt)) > room
        return super().generate_until(requests, disable_tqdm=disable_tqdm)
