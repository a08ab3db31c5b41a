"""The scaling bench measures what the kernel sent, and predicts from the same formula."""

import os
import socket
from pathlib import Path

import pytest

from bench import scaling
from pretrain import arithmetic


def test_written_counts_sockets() -> None:
    a, b = socket.socketpair()
    before = scaling.written()
    a.settimeout(5)
    payload = b"x" * 50_000
    os.write(a.fileno(), payload)
    assert b.recv(1) == b"x"
    assert scaling.written() - before == pytest.approx(len(payload), abs=200)


def test_prediction_of_the_flagship(capsys: pytest.CaptureFixture[str]) -> None:
    rows = scaling.predict()["rows"]
    assert len(rows) == 6 and all(r["step"] >= r["compute"] + r["exposed"] - 1e-9 for r in rows)
    slow, fast = rows[0], rows[-1]
    assert 0.85 < slow["step"] < 0.95 and 0.45 < fast["step"] < 0.5
    assert "3.45 GB sent a rank and step" in capsys.readouterr().out
    assert all(r["compute"] == pytest.approx(0.6) for r in scaling.predict(measured=0.6)["rows"])


@pytest.mark.slow
def test_two_ranks_send_what_the_formula_says(tmp_path: Path) -> None:
    sent, formula, seconds = scaling.measure(2, 4, tmp_path / "2")
    assert formula == arithmetic.all_reduce_bytes(scaling.demo(2)) > 0
    assert formula <= sent <= scaling.TOLERANCE * formula
    assert seconds > 0
