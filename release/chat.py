"""Verb ``chat``: talk to a model of the run in the terminal, or on a page in the browser.

duetto chat                         # /reset forgets the conversation, /exit leaves
echo "Ciao!" | duetto chat          # piped: one prompt a line
duetto chat --web                   # the page, on 127.0.0.1 only
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from duetto.console import console, log
from duetto.run import Run
from release.generation import LoadedModel, Message, Sampling, find_model

HELP = "/reset forgets the conversation, /exit leaves"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="base, instruct or a folder (default: the chat model)")
    parser.add_argument("--system", default="", help="system prompt")
    parser.add_argument("--max-new-tokens", type=int, default=200, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--web", action="store_true", help="a page in the browser instead of the terminal")
    parser.add_argument("--host", default="127.0.0.1", help="with --web: address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="with --web (default: %(default)s; 0: any free one)")


def run(run: Run, args: argparse.Namespace) -> None:
    """Converse until /exit, Ctrl-D or the end of the piped prompts."""
    if args.web:
        from release.web import serve

        serve(run, args.model, args.host, args.port)
        return
    sampling = Sampling(args.max_new_tokens, args.temperature, args.top_p, seed=args.seed)
    model = LoadedModel(find_model(run.root, args.model))
    if sys.stdin.isatty():
        kind = "" if model.chat else " (a base model: it continues your text)"
        log(f"{model.folder.name}{kind}; {HELP}")
    converse(model, sampling, args.system)


def converse(model: LoadedModel, sampling: Sampling, system: str = "") -> None:
    """The loop: read, stream, remember."""
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    for prompt in prompts():
        if prompt == "/exit":
            return
        if prompt == "/reset":
            messages = list(start)
            log("forgotten")
            continue
        if prompt.startswith("/"):
            log(f"{prompt.split()[0]}: no such command; {HELP}")
            continue
        messages.append({"role": "user", "content": prompt})
        _, dropped = model.encode(messages, sampling.max_new_tokens)
        if dropped:
            log(f"(longer than {model.context} tokens: the {dropped} oldest messages no longer count)")
        answer = []
        try:
            for piece in model.stream(messages, sampling):
                answer.append(piece)
                console.file.write(piece)
                console.file.flush()
        except KeyboardInterrupt:  # stops this answer, not the conversation
            answer.append(" ...")
        console.file.write("\n")
        console.file.flush()
        messages.append({"role": "assistant", "content": "".join(answer)})


def prompts() -> Iterator[str]:
    """Lines typed at the terminal or piped in; empty ones are skipped."""
    while True:
        try:
            line = console.input("[bold]> [/bold]") if sys.stdin.isatty() else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            return
        if not line and not sys.stdin.isatty():
            return
        if line.strip():
            yield line.strip()
