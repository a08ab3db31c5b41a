"""What every kind of source reads, and what it does with files and records that cannot be read."""

import gzip
import io
import json

import pytest
import zstandard

from data import sources as readers
from data.config import Source
from data.ledger import Ledger
from data.source_code import is_generated, is_minified, language_of, license_of_text
from data.sources import SourceReader, list_files
from duetto.errors import UserError


def read(kind: str, path, bad_files: str = "skip", **options):
    """Texts by id, and the ledger."""
    source = Source(kind=kind, path=str(path), language=options.pop("language", "en"), **options)
    ledger = Ledger(path)
    files = list_files(source, "test")
    reader = SourceReader("test", source, files, ledger, bad_files)
    return {d.id: d.text for d in reader.run()}, ledger.as_dict()


ROWS = [{"id": f"d{i}", "text": f"text number {i}", "url": f"https://example.org/{i}"} for i in range(50)]
LINES = "".join(json.dumps(r) + "\n" for r in ROWS).encode()


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress(LINES)),
    ],
)
def test_jsonl(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    texts, ledger = read("jsonl", tmp_path)
    assert texts == {r["id"]: r["text"] for r in ROWS}
    assert ledger["counts"]["documents_in"] == 50 and not ledger["dropped"]


def test_jsonl_records_that_cannot_be_read_are_dropped_one_by_one(tmp_path):
    lines = [
        b'{"id": "good", "text": "good"}',
        b'{"id": "torn", "text": "to',
        b'{"id": "latin", "text": "perch\xe9"}',
        b'{"id": "empty", "text": "  "}',
        b'{"id": "none", "text": null}',
        b'{"id": "number", "text": 5}',
        b'{"other": "key"}',
        b"[1, 2]",
        b"",
        b'{"id": "lone", "text": "a\\ud800b"}',
        b'{"id": "pair", "text": "\\ud83d\\ude00"}',
        b'{"text": "no id"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    texts, ledger = read("jsonl", tmp_path, bad_files="stop")
    assert set(texts) == {"good", "lone", "pair", "a.jsonl:11"}
    assert texts["pair"] == "😀"
    dropped = {k: v["documents"] for k, v in ledger["dropped"].items()}
    assert dropped == {"bad_json": 2, "bad_encoding": 1, "empty": 1, "no_text": 3}
    assert ledger["counts"]["documents_in"] == len(texts) + sum(dropped.values())


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_truncated_file_stops_the_job_or_is_counted(tmp_path, name):
    content = {
        "a.jsonl": LINES[:-20],
        "a.jsonl.gz": gzip.compress(LINES)[:-30],
        "a.jsonl.zst": zstandard.ZstdCompressor().compress(LINES * 20)[:-60],
        "a.parquet": parquet_bytes()[:-100],
    }[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"b.{name.partition('.')[2]}").write_bytes(
        parquet_bytes([{"id": "next", "text": "next file"}]) if "parquet" in name else encoded(name)
    )
    kind = "parquet" if "parquet" in name else "jsonl"
    with pytest.raises(UserError, match=rf"{name}: .*data\.bad_files=skip"):
        read(kind, tmp_path, bad_files="stop")
    texts, ledger = read(kind, tmp_path, bad_files="skip")
    assert texts["next"] == "next file"  # the job goes on with the next file
    assert ledger["counts"]["files_unreadable"] == 1
    assert ledger["bad_files"][0]["file"] == name


def encoded(name: str) -> bytes:
    line = b'{"id": "next", "text": "next file"}\n'
    if name.endswith("gz"):
        return gzip.compress(line)
    return zstandard.ZstdCompressor().compress(line) if name.endswith("zst") else line


def parquet_bytes(rows=ROWS) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def test_parquet_and_its_missing_column(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet_bytes())
    texts, _ = read("parquet", tmp_path)
    assert texts == {r["id"]: r["text"] for r in ROWS}
    with pytest.raises(UserError, match=r"has no column 'content' \(columns: id, text, url\); set text_key"):
        read("parquet", tmp_path, bad_files="stop", text_key="content")


def test_a_zip_bomb_is_not_unpacked_into_memory(tmp_path, monkeypatch):
    """300 MB of one line in 30 kB: dropped a block at a time, and the line after it is read."""
    import resource

    monkeypatch.setattr(readers, "LONGEST_LINE", 4 * 2**20)
    compressor = zstandard.ZstdCompressor().compressobj()
    out = compressor.compress(b'{"id": "bomb", "text": "')
    for _ in range(300):
        out += compressor.compress(b"a" * 2**20)
    out += compressor.compress(b'"}\n{"id": "after", "text": "still here"}\n') + compressor.flush()
    (tmp_path / "bomb.jsonl.zst").write_bytes(out)
    assert len(out) < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    texts, ledger = read("jsonl", tmp_path)
    assert texts == {"after": "still here"}
    assert ledger["dropped"]["line_too_long"]["documents"] == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_warc(tmp_path):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    body = "".join(
        f"<p>Questo è il paragrafo numero {i} di una pagina che parla del mare e delle sue onde.</p>" for i in range(8)
    )
    html = f"<html><head><title>Il mare</title></head><body><nav>menu</nav><article>{body}</article></body></html>"
    with open(tmp_path / "a.warc.gz", "wb") as f:
        writer = WARCWriter(f, gzip=True)
        for kind, content in (("text/html; charset=utf-8", html.encode()), ("image/png", b"\x89PNG")):
            headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.0")
            writer.write_record(
                writer.create_warc_record(
                    "https://example.org/mare", "response", payload=io.BytesIO(content), http_headers=headers
                )
            )
    texts, ledger = read("warc", tmp_path, language="it")
    (text,) = texts.values()
    assert "paragrafo numero 7" in text and "menu" not in text
    assert ledger["counts"]["documents_in"] == 1


def test_code(tmp_path):
    files = {
        "src/good.py": "def f(x):\n    return x + 1\n",
        "src/made_pb2.py": "x = 1\n",
        "src/gen.go": "// Code generated by protoc. DO NOT EDIT.\npackage x\n",
        "web/app.js": "var a=1;" * 400,
        "web/notes.txt": "no source file",
        "lib/latin.c": "/* perché */ int x;\n",
        "lib/empty.h": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="latin-1" if "latin" in name else "utf-8")
    (tmp_path / "big.py").write_text("x = 1\n" * 200_000)
    texts, ledger = read("code", tmp_path, language="code")
    assert set(texts) == {"src/good.py"}
    dropped = {k: v["documents"] for k, v in ledger["dropped"].items()}
    assert dropped == {"code_minified": 2, "code_generated": 1, "bad_encoding": 1, "empty": 1, "code_too_large": 1}


def test_code_licences(tmp_path):
    files = {
        "a/LICENSE": "Permission is hereby granted, free of charge, to any person obtaining a copy",
        "a/deep/down.py": "x = 1\n",
        "b/COPYING": "GNU GENERAL PUBLIC LICENSE Version 3",
        "b/y.py": "y = 1\n",
        "b/z.py": "# SPDX-License-Identifier: Apache-2.0\nz = 1\n",
        "c/q.py": "q = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    texts, ledger = read("code", tmp_path, language="code", licenses=["MIT", "Apache-2.0"])
    assert set(texts) == {"a/deep/down.py", "b/z.py"}
    assert set(ledger["dropped"]) == {"license_GPL-3.0", "license_unknown"}
    assert license_of_text("GNU AFFERO GENERAL PUBLIC LICENSE") == "AGPL-3.0"


def test_code_rules():
    assert language_of("x/Makefile") == "make" and language_of("a.rs") == "rust" and language_of("README") is None
    assert is_generated("import x\n# this is generated by hand-written code far below\n" * 3) == "code_generated"
    assert is_generated("\n" * 20 + "# DO NOT EDIT") is None
    assert (
        is_minified("a.js", "short\n" * 10) is None and is_minified("a.js", "x" * 1500 + "\n" * 400) == "code_minified"
    )


def test_choice_of_files(tmp_path):
    for name in ("x/1.jsonl", "x/2.jsonl", "y/3.jsonl", "y/4.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "t"}\n')

    def files(path, **options):
        return list_files(Source(kind="jsonl", path=str(path), language="en", **options), "s")

    assert files(tmp_path) == ["x/1.jsonl", "x/2.jsonl", "y/3.jsonl"]
    assert files(tmp_path / "x" / "1.jsonl") == ["1.jsonl"]
    assert files(tmp_path / "x" / "*.jsonl") == ["1.jsonl", "2.jsonl"]
    assert files(tmp_path, include=["x/*"], exclude=["*2*"]) == ["x/1.jsonl"]
    with pytest.raises(UserError, match="source s: .*no such file or folder"):
        files(tmp_path / "zz")
    with pytest.raises(UserError, match="no file of kind jsonl"):
        files(tmp_path, include=["q*"])


def test_limit_and_tasks_read_each_file_once(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jsonl").write_text("".join(f'{{"id": "{i}-{j}", "text": "t"}}\n' for j in range(4)))
    source = Source(kind="jsonl", path=str(tmp_path), language="en")
    files = list_files(source, "s")
    seen = [
        d.id
        for r in range(3)
        for d in SourceReader("s", source, files, Ledger(tmp_path), "stop").run(rank=r, world_size=3)
    ]
    assert sorted(seen) == sorted(f"{i}-{j}" for i in range(5) for j in range(4))
    texts, _ = read("jsonl", tmp_path, limit=3)
    assert len(texts) == 3


def test_a_parquet_row_that_is_not_utf8_costs_only_itself(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    _, offsets, text = pa.array(["one", "two", "three"]).buffers()
    broken = pa.py_buffer(text.to_pybytes().replace(b"two", b"t\xff\xfe"))
    table = {"id": ["a", "b", "c"], "text": pa.Array.from_buffers(pa.string(), 3, [None, offsets, broken])}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    texts, ledger = read("parquet", tmp_path)
    assert texts == {"a": "one", "c": "three"}
    assert ledger["dropped"]["bad_encoding"]["documents"] == 1 and ledger["counts"]["documents_in"] == 3
