import ast
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.core.errors import InputError
from chunkwise.corpus.config import SourceConfig
from chunkwise.corpus.python_docs.source import module_name
from chunkwise.corpus.python_docs.syntax import code_text, docstring_text, parse_docstrings
from chunkwise.corpus.sources import digest_source, read_source

MODULE = '''#!/usr/bin/env python
# Copyright: somebody.
"""What the module does."""

# Licensed under some terms.

import os

# Kept: it is below the first statement.


class Pot:
    """Holds things."""

    size = 3

    def fill(self, what, *more, level: int = 2, where=os.sep, **rest) -> None:
        """Put things in.

        Twice if needed.
        """
        return what

    def _empty(self, /): "Only a docstring."


if os:

    async def brew(a, *, b=None):
        """Brew."""

        def inner():
            """Nobody can call it."""


def bare():
    "é" "ü"
'''


def test_docstrings_with_their_signatures():
    assert (
        docstring_text(ast.parse(MODULE), "shop.pots")
        == """module shop.pots
    What the module does.

class shop.pots.Pot
    Holds things.

method shop.pots.Pot.fill(self, what, *more, level=2, where=..., **rest)
    Put things in.

    Twice if needed.

method shop.pots.Pot._empty(self, /)
    Only a docstring.

function shop.pots.brew(a, *, b=None)
    Brew.

function shop.pots.bare()
    éü
"""
    )


def test_code_without_docstrings_and_licence_still_parses():
    code = code_text(MODULE, ast.parse(MODULE))
    assert (
        code
        == """import os

# Kept: it is below the first statement.


class Pot:
    size = 3

    def fill(self, what, *more, level: int = 2, where=os.sep, **rest) -> None:
        return what

    def _empty(self, /): ...


if os:

    async def brew(a, *, b=None):
        def inner():
            ...


def bare():
    ...
"""
    )
    assert docstring_text(ast.parse(code), "m") == ""


def test_a_module_of_docstrings_alone_has_no_code():
    assert code_text('"""Only this."""\n', ast.parse('"""Only this."""\n')) == ""


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
def test_questions_read_back_what_was_written(docstring):
    tree = ast.parse(f"class A:\n    {docstring!r}\n    def f(self):\n        {docstring!r}\n")
    entries = list(parse_docstrings(docstring_text(tree, "m")))
    if docstring.strip():
        assert [(e.kind, e.name) for e in entries] == [("class", "m.A"), ("method", "m.A.f")]
        assert {e.docstring for e in entries} == {docstring.strip()}
    else:
        assert entries == []


@pytest.mark.parametrize(
    "name, module",
    [
        ("python/json/decoder.py", "json.decoder"),
        ("python/json/__init__.py", "json"),
        ("rich/console.py", "rich.console"),
        ("six/six.py", "six"),
        ("rich/METADATA", "rich/METADATA"),
    ],
)
def test_module_names(name, module):
    assert module_name(name) == module


def test_the_standard_library_by_glob():
    source = SourceConfig(kind="python", include=["python/json/*"])
    drops = Counter()
    documents = {d.document_id: d for d in read_source(source, max_document_bytes=10**6, drops=drops)}
    code, docstrings = documents["python/json/decoder.py#code"], documents["python/json/decoder.py#docstrings"]
    assert (code.group, code.source, docstrings.source) == ("python/json/decoder.py", "code", "docstrings")
    assert code.group == docstrings.group
    assert "class json.decoder.JSONDecoder\n    Simple JSON" in docstrings.text
    assert json.JSONDecoder.__doc__.strip().split("\n")[0] not in code.text
    assert digest_source(source) == digest_source(source)


def test_labels_by_package_and_kinds_asked_for():
    source = SourceConfig(
        kind="python", packages=["pytest"], standard_library=False, label="package", python_kinds=["docstrings"]
    )
    documents = list(read_source(source, max_document_bytes=10**6, drops=Counter()))
    assert {d.source for d in documents} == {"pytest"}
    assert all(d.document_id.endswith("#docstrings") for d in documents)


def test_a_distribution_that_is_not_installed_names_the_install_line():
    source = SourceConfig(kind="python", packages=["no-such-thing"], standard_library=False)
    with pytest.raises(InputError, match="'no-such-thing' is not installed") as caught:
        digest_source(source)
    assert "pip install no-such-thing" in caught.value.hint


def test_what_this_python_cannot_parse_is_counted(monkeypatch, tmp_path):
    from chunkwise.corpus.python_docs import source

    for name, content in {"good.py": b"x = 1\n", "old.py": b"print 'x'\n", "odd.py": b"\xff"}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(
        source,
        "_standard_library_files",
        lambda: [source.PackageFile(f"python/{p.name}", "python", p) for p in tmp_path.iterdir()],
    )
    drops = Counter()
    documents = list(read_source(SourceConfig(kind="python"), max_document_bytes=10**6, drops=drops))
    assert [d.document_id for d in documents] == ["python/good.py#code"]
    assert drops == {"not_parsable": 1, "not_utf8": 1}


def test_licence_texts_are_left_out_and_modules_with_such_names_are_not(monkeypatch, tmp_path):
    from chunkwise.corpus.python_docs import source

    names = ["license.py", "notices.py", "sources_of_text.py", "Authors.py", "LICENSE.txt", "notice.md", "guide.rst"]
    for name in names:
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    files = [source.PackageFile(f"python/{name}", "python", tmp_path / name) for name in names]
    monkeypatch.setattr(source, "_standard_library_files", lambda: files)
    documents = read_source(SourceConfig(kind="python"), max_document_bytes=10**6, drops=Counter())
    assert [d.document_id for d in documents] == [
        "python/Authors.py#code",
        "python/guide.rst#prose",
        "python/license.py#code",
        "python/notices.py#code",
        "python/sources_of_text.py#code",
    ]
