"""Instruction checkers for Italian IFEval, used by ``ifeval_ita.yaml``.

Most checkers of lm-eval's IFEval do not depend on the language and are used as they are. Those that do are here:
sentences (English abbreviations and a tokenizer trained on English), upper and lower case (the English ones demand
that the text be English), the fixed answers ("My answer is yes."), words in capitals (an English word splitter).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_ABBREVIATION = re.compile(
    r"\b(sig|sigg|sigra|dott|dr|prof|ing|avv|arch|geom|rag|on|egr|gent|spett|ecc|es|pag|pagg|cap|art|artt|fig|vol|n|nr"
    r"|tel|ca|cfr|p|pp|s|ss|v|vs|a\.C|d\.C|S\.p\.A|S\.r\.l)\.(?=\s|$)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'»”)\]]*(?=\s|$)")
_WORD = re.compile(r"[^\W\d_]+")
FIXED_ANSWERS = ("la mia risposta è sì.", "la mia risposta è no.", "la mia risposta è forse.")
"""Translations of IFEval's three fixed answers; the English originals count too."""


def count_sentences(text: str) -> int:
    """Sentences of an Italian text; a last one without a full stop counts, abbreviations and 3.14 do not end one."""
    plain = _ABBREVIATION.sub(lambda m: m.group(0).replace(".", ""), text)
    plain = re.sub(r"(?<=\d)[.](?=\d)|\b([A-Z])\.(?=\s?[A-Z])", r"\1", plain)
    parts = [p for p in _SENTENCE_END.split(plain) if p and _WORD.search(p)]
    return len(parts)


def compare(count: int, kwargs: Mapping[str, Any], threshold: str) -> bool:
    """IFEval's two relations, "at least" and "less than"; their Italian names count too."""
    relation, limit = str(kwargs.get("relation") or kwargs.get("capital_relation") or "at least"), kwargs[threshold]
    return count < limit if relation.strip().lower() in ("less than", "meno di") else count >= limit


def is_italian(text: str) -> bool:
    """Whether langdetect takes the text for Italian; too little text to tell counts as following, as upstream does."""
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it is random otherwise
    try:
        return bool(langdetect.detect(text.lower()) == "it")
    except langdetect.LangDetectException:
        return True


def number_sentences(response: str, kwargs: Mapping[str, Any]) -> bool:
    return compare(count_sentences(response), kwargs, "num_sentences")


def all_capitals(response: str, kwargs: Mapping[str, Any]) -> bool:
    return response.isupper() and is_italian(response)


def all_lowercase(response: str, kwargs: Mapping[str, Any]) -> bool:
    return response.islower() and is_italian(response)


def constrained_response(response: str, kwargs: Mapping[str, Any]) -> bool:
    english = ("my answer is yes.", "my answer is no.", "my answer is maybe.")
    return any(answer in response.strip().lower() for answer in (*FIXED_ANSWERS, *english))


def capital_words(response: str, kwargs: Mapping[str, Any]) -> bool:
    count = sum(word.isupper() for word in _WORD.findall(response))
    return compare(count, kwargs, "capital_frequency")


ITALIAN: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "length_constraints:number_sentences": number_sentences,
    "change_case:english_capital": all_capitals,
    "change_case:english_lowercase": all_lowercase,
    "change_case:italian_capital": all_capitals,
    "change_case:italian_lowercase": all_lowercase,
    "detectable_format:constrained_response": constrained_response,
    "change_case:capital_word_frequency": capital_words,
}
"""Instructions whose English checker does not carry over."""


def follows(instruction: str, kwargs: Mapping[str, Any], prompt: str, response: str) -> bool:
    """Whether a response follows one instruction; an empty response follows none."""
    if not response.strip():
        return False
    given = {k: v for k, v in kwargs.items() if v is not None}
    if instruction in ITALIAN:
        return ITALIAN[instruction](response, given)
    from lm_eval.tasks.ifeval import instructions_registry

    checker = instructions_registry.INSTRUCTION_DICT[instruction](instruction)
    checker.build_description(**{k: v for k, v in given.items() if v})
    arguments = checker.get_instruction_args()
    if arguments and "prompt" in arguments:
        checker.build_description(prompt=prompt)
    return bool(checker.check_following(response))


def loose_variants(response: str) -> list[str]:
    """IFEval's eight readings: without first line, last line, both, and each of these without asterisks."""
    lines = response.split("\n")
    cuts = [lines, lines[1:], lines[:-1], lines[1:-1]]
    texts = [response, *("\n".join(c).strip() for c in cuts[1:])]
    return [*texts, *(t.replace("*", "") for t in texts)]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """IFEval's four metrics for one prompt."""
    asked = list(zip(doc["instruction_id_list"], doc["kwargs"]))
    strict = [follows(i, k, doc["prompt"], results[0]) for i, k in asked]
    loose = [any(follows(i, k, doc["prompt"], text) for text in loose_variants(results[0])) for i, k in asked]
    return {
        "prompt_level_strict_acc": all(strict),
        "inst_level_strict_acc": strict,
        "prompt_level_loose_acc": all(loose),
        "inst_level_loose_acc": loose,
    }


def flat_mean(items: Iterable[Sequence[bool]]) -> float:
    """Mean over instructions, not over prompts."""
    flat = [x for item in items for x in item]
    return sum(flat) / len(flat)
