"""What the C++ guide shows is what the examples do."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "cpp.md").read_text()
EXAMPLES = [path for path in sorted((DOCS / "examples/cpp").iterdir()) if path.is_file()]
SNIPPETS = re.findall(r"^```(?:cpp|python)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


def test_the_guide_has_snippets() -> None:
    assert len(SNIPPETS) >= 8


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.split("\n", 1)[0].strip())
def test_a_snippet_is_part_of_an_example(snippet: str) -> None:
    wanted = "\n" + unindented(textwrap.dedent(snippet)) + "\n"
    assert any(wanted in "\n" + unindented(path.read_text()) + "\n" for path in EXAMPLES)


def test_the_guide_names_every_example() -> None:
    for path in EXAMPLES:
        if path.suffix in {".cpp", ".py"}:
            assert f"(examples/cpp/{path.name})" in GUIDE, path.name


def test_links_lead_somewhere() -> None:
    prose = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (DOCS / link).exists(), link
