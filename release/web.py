"""The chat page: ``duetto chat --web``. Streams, speaks English and Italian, needs no internet, stays on loopback.

Everything about the model is in ``release/generation.py``; here are only the controls. Fonts are the system's, and what
Gradio's page would fetch from other machines is taken out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml

from duetto.console import log
from duetto.errors import UserError
from duetto.run import Run
from release.checkpoints import committed_steps, converted
from release.generation import LoadedModel, Message, Sampling, find_model
from release.render import TEMPLATES

LOOPBACK = ("127.0.0.1", "localhost", "::1")
INTERFACES = {"English": "en", "Italiano": "it"}
TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
CHECKPOINT = "checkpoint "


def texts(language: str) -> dict[str, str]:
    content = yaml.safe_load((TEMPLATES / "page.yaml").read_text(encoding="utf-8"))
    return dict(content[language])


def available(run: Run) -> list[str]:
    """What can be chosen: finished models first, then other converted folders and checkpoints, newest first."""
    found = [k for k in ("instruct", "base") if run.path(k, "config.json").is_file()]
    found += sorted(p.parent.name for p in run.root.glob("base-*/config.json"))
    return found + [f"{CHECKPOINT}{step}" for step in reversed(committed_steps(run))]


def parts(answer: str, words: dict[str, str]) -> list[Message]:
    """An answer as messages of the page: text, and each tool call as a titled box."""
    shown: list[Message] = []
    at = 0
    for match in TOOL_CALL.finditer(answer):
        if before := answer[at : match.start()].strip():
            shown.append({"role": "assistant", "content": before})
        title, body = words["tool_call"], match[1]
        try:
            call = json.loads(body)
            title, body = f"{title}: {call['name']}", json.dumps(call.get("arguments"), indent=1, ensure_ascii=False)
        except (ValueError, KeyError, TypeError):
            title = words["bad_call"] if answer[match.end() - 1 :].startswith(">") else title
        shown.append({"role": "assistant", "content": f"```json\n{body}\n```", "metadata": {"title": title}})
        at = match.end()
    if rest := answer[at:].strip():
        shown.append({"role": "assistant", "content": rest})
    return shown


def display(turns: list[Message], words: dict[str, str]) -> list[Message]:
    """The conversation as the chat box shows it."""
    shown: list[Message] = []
    for turn in turns:
        shown += parts(turn["content"], words) if turn["role"] == "assistant" else [turn]
    return shown


class Page:
    """State behind the page: the run, and the model that was used last."""

    def __init__(self, run: Run):
        self.run = run
        self.load = lru_cache(maxsize=1)(self._load)

    def _load(self, name: str) -> LoadedModel:
        if name.startswith(CHECKPOINT):
            return LoadedModel(converted(self.run, int(name.removeprefix(CHECKPOINT))))
        return LoadedModel(find_model(self.run.root, name))

    def respond(
        self,
        prompt: str,
        turns: list[Message],
        interface: str,
        name: str,
        system: str,
        tools: str,
        temperature: float,
        top_p: float,
        top_k: int,
        repetition: float,
        max_tokens: int,
    ) -> Iterator[tuple[list[Message], list[Message], str]]:
        """Chat box, conversation and emptied input, again with every piece of the answer."""
        import gradio as gr

        words = texts(INTERFACES[interface])
        if not (prompt or "").strip():
            yield display(turns, words), turns, ""
            return
        try:
            schemas = json.loads(tools) if tools and tools.strip() else None
            if schemas is not None and not isinstance(schemas, list):
                raise ValueError
        except ValueError:
            raise gr.Error(words["bad_tools"]) from None
        try:
            model = self.load(name)
        except UserError as e:
            raise gr.Error(str(e)) from None
        turns = [*turns, {"role": "user", "content": prompt.strip()}]
        yield display(turns, words), turns, ""
        system = (system or "").strip()
        messages = ([{"role": "system", "content": system}] if system else []) + turns
        sampling = Sampling(int(max_tokens), temperature, top_p, int(top_k), repetition)
        answer = ""
        for piece in model.stream(messages, sampling, tools=schemas):
            answer += piece
            said = [*turns, {"role": "assistant", "content": answer}]
            yield display(said, words), said, ""
        if not answer:
            yield display(turns, words), turns, ""


def build(run: Run, chosen: str | None = None) -> Any:
    """The page as a Gradio app.

    Raises:
        UserError: the run has no model yet.
    """
    import gradio as gr

    names = available(run)
    if chosen and chosen not in names:
        find_model(run.root, chosen)
        names = [chosen, *names]
    if not names:
        find_model(run.root, None)
    page = Page(run)
    first = next((k for k, v in INTERFACES.items() if v == run.recipe.languages[0]), "English")
    w = texts(INTERFACES[first])
    title = run.recipe.release.name_of("instruct")
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True) as app:
        turns = gr.State([])
        with gr.Row(equal_height=True):
            gr.Markdown(f"# {title}")
            interface = gr.Radio(list(INTERFACES), value=first, label=w["interface"], elem_id="interface")
            model = gr.Dropdown(names, value=chosen or names[0], label=w["model"], elem_id="model")
        box = gr.Chatbot(show_label=False, height="55vh", elem_id="chat", layout="bubble", buttons=["copy"])
        with gr.Row():
            prompt = gr.Textbox("", label=w["message"], lines=1, autofocus=True, scale=6, elem_id="prompt")
            with gr.Column(scale=1, min_width=140):
                send = gr.Button(w["send"], variant="primary", elem_id="send")
                stop = gr.Button(w["stop"], elem_id="stop")
                reset = gr.Button(w["reset"], elem_id="reset")
        with gr.Accordion(w["settings"], open=False) as settings:
            system = gr.Textbox("", label=w["system"], lines=2, elem_id="system")
            with gr.Row():
                temperature = gr.Slider(0, 2, 0, step=0.05, label=w["temperature"], elem_id="temperature")
                top_p = gr.Slider(0.05, 1, 1, step=0.05, label=w["top_p"])
                top_k = gr.Slider(0, 200, 0, step=1, label=w["top_k"])
                repetition = gr.Slider(1, 2, 1, step=0.05, label=w["repetition"])
                tokens = gr.Slider(1, 1024, 200, step=1, label=w["max_tokens"])
            tools = gr.Textbox("", label=w["tools"], lines=4, elem_id="tools")
        note = gr.Markdown(w["base_note"], elem_id="note", visible=model.value != "instruct")
        model.change(lambda name: gr.update(visible=name != "instruct"), model, note, show_progress="hidden")
        labelled = {
            interface: "interface",
            model: "model",
            prompt: "message",
            system: "system",
            tools: "tools",
            temperature: "temperature",
            top_p: "top_p",
            top_k: "top_k",
            repetition: "repetition",
            tokens: "max_tokens",
        }
        buttons = {send: "send", stop: "stop", reset: "reset", note: "base_note"}

        def relabel(language: str) -> list[Any]:
            now = texts(INTERFACES[language])
            named = [gr.update(label=now[key]) for key in labelled.values()]
            valued = [gr.update(value=now[key]) for key in buttons.values()]
            return [*named, *valued, gr.update(label=now["settings"])]

        interface.change(relabel, interface, [*labelled, *buttons, settings], show_progress="hidden")
        inputs = [prompt, turns, interface, model, system, tools, temperature, top_p, top_k, repetition, tokens]
        running: list[Any] = [
            event(page.respond, inputs, [box, turns, prompt], show_progress="hidden")
            for event in (prompt.submit, send.click)
        ]
        stop.click(None, cancels=running)
        reset.click(lambda: ([], []), None, [box, turns], cancels=running, show_progress="hidden")
    return app.queue(default_concurrency_limit=1)


FOREIGN = re.compile(rb'<script\s+src="https://[^>]*></script>|<link\b[^>]*href="https://[^>]*>', re.DOTALL)
"""What Gradio's page would fetch from other machines: a script for embedding, fonts."""


class Offline:
    """ASGI middleware that takes foreign scripts and styles out of HTML answers."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        held: dict[str, Any] = {}
        body = bytearray()

        async def filtered(message: Any) -> None:
            if message["type"] == "http.response.start":
                kinds = [v for k, v in message["headers"] if k == b"content-type"]
                if kinds and kinds[0].startswith(b"text/html"):
                    held.update(message)
                    return
            if message["type"] != "http.response.body" or not held:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                page = FOREIGN.sub(b"", bytes(body))
                headers = [(k, v) for k, v in held["headers"] if k != b"content-length"]
                await send({**held, "headers": [*headers, (b"content-length", str(len(page)).encode())]})
                await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, filtered)


def serve(run: Run, model: str | None, host: str, port: int, block: bool = True) -> str:
    """Listen; returns the address when ``block`` is false."""
    import gradio as gr
    from starlette.middleware import Middleware

    if host not in LOOPBACK:
        log(f"chat: listens on {host}: everybody who reaches this machine can use the page, without a password")
    app = build(run, model)
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port or free_port(host),
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            theme=theme,
            ssr_mode=False,
            pwa=False,
            app_kwargs={"middleware": [Middleware(Offline)]},
        )
    except OSError as e:
        raise UserError(f"port {port} on {host} is taken ({e}); give another one with --port, or --port 0") from None
    log(f"chat: {address}")
    if block:
        app.block_thread()
    return str(address)


def free_port(host: str) -> int:
    import socket

    with socket.socket() as s:
        s.bind((host, 0))
        return int(s.getsockname()[1])
