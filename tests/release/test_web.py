"""The chat page, driven in headless Chromium."""

import pytest

from release.web import display, parts, serve, texts
from tests.release.browser import Browser

ANSWERS = "document.querySelectorAll('#chat [data-testid=\"bot\"]').length"

WATCH = """
window.seen = new Set();
new MutationObserver(() => {
  const answer = document.querySelector('#chat [data-testid="bot"]');
  if (answer) window.seen.add(answer.innerText);
}).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true});
"""


@pytest.fixture
def page(shown):
    import gradio as gr

    address = serve(shown, None, "127.0.0.1", 0, block=False)
    yield address
    gr.close_all()


def test_the_page_converses_streams_and_needs_no_internet(page, tmp_path, pictures):
    with Browser(tmp_path / "profile", 1100, 900) as browser:
        browser.open(page)
        browser.wait_for("!!document.querySelector('#prompt textarea')")
        browser.evaluate(WATCH)
        browser.type("#prompt textarea", "Raccontami una storia su Anna e una vecchia lampada.")
        browser.click("#send")
        browser.wait_for(f"{ANSWERS} === 1")
        # Streaming: the answer is seen growing.
        browser.wait_for("window.seen.size > 3", 30)
        browser.wait_for("document.querySelector('#prompt textarea').value === ''")
        assert "Raccontami una storia" in browser.evaluate("document.querySelector('#chat').innerText")
        # The other language of the interface.
        browser.evaluate("[...document.querySelectorAll('#interface input')].find(i => i.value === 'Italiano').click()")
        browser.wait_for("document.querySelector('#send').innerText.trim() === 'Invia'")
        assert "Il tuo messaggio" in browser.evaluate("document.querySelector('#prompt').innerText")
        browser.wait_for("!document.querySelector('#note')?.innerText.trim()")
        browser.screenshot(pictures / "chat-page.png")
        browser.click("#reset")
        browser.wait_for(f"{ANSWERS} === 0")
        foreign = [u for u in browser.requests if not u.startswith((page.rstrip("/"), "data:", "blob:", "about:"))]
        assert foreign == []
        assert browser.errors == []


def test_it_listens_on_loopback_only(page):
    assert page.startswith("http://127.0.0.1:")


def test_models_to_choose_from(a_run):
    from release.web import available

    run = a_run()
    assert available(run) == ["instruct", "base"]
    (run.path("pretrain", "checkpoints", "25")).mkdir(parents=True)
    (run.path("pretrain", "checkpoints", "25", "COMMIT")).write_text("{}")
    (run.path("pretrain", "checkpoints", "50")).mkdir()
    assert available(run) == ["instruct", "base", "checkpoint 25"]


def test_tool_calls_are_shown_apart():
    words = texts("en")
    answer = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Roma"}}\n</tool_call>\nDone.'
    shown = parts(answer, words)
    assert [m["content"] for m in shown][::2] == ["I look.", "Done."]
    assert shown[1]["metadata"]["title"] == "Tool call: weather" and '"city": "Roma"' in shown[1]["content"]
    broken = parts("<tool_call>\n{oops\n</tool_call>", words)
    assert broken[0]["metadata"]["title"] == words["bad_call"]
    assert len(display([{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}], words)) == 4


def test_both_languages_have_the_same_texts():
    assert texts("en").keys() == texts("it").keys()


def test_tools_reach_the_template(finished):
    from release.generation import LoadedModel

    model = LoadedModel(finished / "instruct")
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ids, _ = model.encode([{"role": "user", "content": "Roma?"}], 8, [tool])
    assert '"weather"' in model.tokenizer.decode(ids)
