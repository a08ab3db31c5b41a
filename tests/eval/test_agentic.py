"""The agentic suite: frozen, complete, solvable by its own key, and graded by kind of mistake."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from duetto.errors import UserError
from eval.agentic.cases import CATEGORIES, load_cases, suite_hash
from eval.agentic.grader import first_options, grade_answer, grade_calls, read_turn, to_hermes
from eval.agentic.suite import play, run_agentic
from eval.config import Endpoint
from eval.speakers import endpoint_speaker, local_speaker

FROZEN = "854d60857bda7c564d1cc0c1b84dd245"
BY_ID = {c.id: c for c in load_cases()}


def answer_key(case, number):
    """A right turn for a case, from its own expectations."""
    if number < len(case.turns):
        return to_hermes(first_options(case.turns[number]))
    return " ".join(words.split("|")[0] for words in case.says) or "ok"


def key_speaker(rows, max_new_tokens):
    """Answers every case rightly: finds it by its prompt, the turn by the assistant messages since."""
    out = []
    for row in rows:
        prompt = row["messages"][0]["content"]
        (case,) = [c for c in BY_ID.values() if c.prompt == prompt]
        spoken = sum(m["role"] == "assistant" for m in row["messages"]) - len(case.before)
        out.append(answer_key(case, spoken))
    return out


def test_suite_is_frozen():
    """A changed case makes old scores incomparable: raise the version in cases.yaml and this hash together."""
    assert suite_hash() == FROZEN


def test_ten_categories_in_two_languages():
    cases = load_cases()
    assert len(cases) == 120 and len({c.id for c in cases}) == 120 and len({c.prompt for c in cases}) == 120
    for category in CATEGORIES:
        for language in ("en", "it"):
            assert sum(c.category == category and c.language == language for c in cases) == 6
    for case in cases:
        names = {t["function"]["name"] for t in case.tools}
        assert all(call["name"] in names for turn in (*case.turns, case.before) for call in turn)
        assert case.turns or case.says
        if case.category.startswith("parallel"):
            assert len(case.turns[0]) > 1


def test_the_key_solves_every_case():
    assert [(c.id, v) for c, v, _ in play(key_speaker, load_cases()) if v != "right"] == []


def test_silence_and_noise_solve_nothing_that_needs_an_answer():
    assert all(v != "right" for _, v, _ in play(lambda rows, n: [""] * len(rows), load_cases()))
    broken = play(lambda rows, n: ['<tool_call>{"name": '] * len(rows), load_cases())
    assert {v for _, v, _ in broken} == {"parse_error"}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ('<tool_call>{"name": "get_weather", "arguments": {"city": " ROMA "}}</tool_call>', "right"),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Rome", "day": "today"}}</tool_call>', "right"),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Milan"}}</tool_call>', "wrong_call"),
        ('<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call>', "wrong_call"),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Rome", "x": 1}}</tool_call>', "wrong_call"),
        ('<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>', "wrong_call"),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}', "parse_error"),
        ("<tool_call>get_weather(Rome)</tool_call>", "parse_error"),
        ("It is sunny in Rome.", "missing_call"),
    ],
)
def test_kinds_of_mistake(said, verdict):
    case = BY_ID["single-1-en"]
    assert grade_calls(read_turn(said), case.turns[0], case.tools) == verdict


def test_order_numbers_and_repetition():
    case = BY_ID["parallel_same-5-it"]
    first, second = first_options(case.turns[0])
    assert grade_calls(read_turn(to_hermes([second, first])), case.turns[0], case.tools) == "right"
    assert grade_calls(read_turn(to_hermes([first])), case.turns[0], case.tools) == "missing_call"
    assert grade_calls(read_turn(to_hermes([first, first])), case.turns[0], case.tools) == "wrong_call"
    quoted = {"name": first["name"], "arguments": {**first["arguments"], "value": "5.0"}}
    assert grade_calls(read_turn(to_hermes([quoted, second])), case.turns[0], case.tools) == "right"


def test_grounding_and_missing_arguments():
    share = BY_ID["grounding-4-en"]
    assert grade_answer("It is worth 71.4 EUR.", share) == "right"
    assert grade_answer("It is worth 71.4 dollars.", share) == "wrong_answer"
    asks = BY_ID["missing_argument-1-it"]
    assert grade_answer("In quale città?", asks) == "right"
    assert grade_answer("Domani piove in città.", asks) == "wrong_answer"
    assert grade_calls(read_turn('<tool_call>{"name": "get_weather", "arguments": {"city": "x"}}</tool_call>'), (), asks.tools) == "needless_call"  # fmt: skip


def test_report_counts_parse_errors_apart_and_is_kept(tmp_path):
    def half(rows, n):
        said = key_speaker(rows, n)
        return ["<tool_call>oops" if "Rome" in r["messages"][0]["content"] else s for r, s in zip(rows, said)]

    content = run_agentic(half, tmp_path / "agentic.json", {"model": "x"})
    rome = [c for c in content["cases"] if c["verdict"] == "parse_error"]
    assert len(rome) == content["overall"]["parse_errors"] == content["overall"]["mistakes"]["parse_error"] == 3
    assert content["overall"]["right"] == pytest.approx(117 / 120)
    assert content["languages"]["it"]["right"] == 1.0
    assert content["categories"]["single"]["en"]["cases"] == 6
    again = run_agentic(None, tmp_path / "agentic.json", {"model": "x"})  # not asked again
    assert again == json.loads((tmp_path / "agentic.json").read_text())


def test_local_model_speaks(models):
    case = BY_ID["single-1-it"]
    rows = [{"messages": [{"role": "user", "content": case.prompt}], "tools": list(case.tools)}]
    assert len(local_speaker(models / "instruct", "cpu")(rows, 4)) == 1


@pytest.fixture
def server():
    """An OpenAI-compatible server that knows the key."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            message = {"content": None, "tool_calls": []}
            text = key_speaker([body], 1)[0]
            turn = read_turn(text)
            message["content"] = turn.text
            message["tool_calls"] = [
                {"function": {"name": c["name"], "arguments": json.dumps(c["arguments"])}} for c in turn.calls
            ]
            status = 401 if body["model"] == "secret" else 200
            payload = json.dumps({"choices": [{"message": message}]}).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    httpd.shutdown()


def test_endpoint_plays_the_suite(server, monkeypatch):
    url, seen = server
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    cases = tuple(c for c in load_cases() if c.category in ("single", "multi_step") and c.language == "it")
    played = play(endpoint_speaker(Endpoint(url=url, model="m")), cases)
    assert {v for _, v, _ in played} == {"right"}
    path, key, body = seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer k" and body["temperature"] == 0 and body["tools"]
    with pytest.raises(UserError, match="401"):
        play(endpoint_speaker(Endpoint(url=url, model="secret")), cases)
    with pytest.raises(UserError, match="no answer"):
        play(endpoint_speaker(Endpoint(url="http://127.0.0.1:9/v1", model="m"), timeout=2), cases)
