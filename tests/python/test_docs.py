"""Every Python example in the documentation runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nixl_connect as nc
import pytest
from conftest import run_forked

DOCS = Path(__file__).parents[2] / "docs"
# A script, with every warning as an error.
STRICT = """
import runpy, sys, warnings
warnings.simplefilter("error")
runpy.run_path(sys.argv[1], run_name="__main__")
"""
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of the C++ guide, an example's own test sees to that; what users' tests look like, pytest runs.
ELSEWHERE = {"cpp.md", "testing.md"}
PAGES = sorted(
    page for page in [*DOCS.glob("*.md"), *DOCS.glob("api/*.md")] if page.name not in ELSEWHERE
)
EXAMPLES = [
    pytest.param(block, id=f"{page.relative_to(DOCS)}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text()))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example)
    result = run_forked(STRICT, str(script), timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", sorted(DOCS.glob("api/*.md")), ids=lambda page: page.name)
def test_every_api_page_has_an_example(page: Path) -> None:
    assert BLOCK.search(page.read_text()), page


@pytest.mark.parametrize("readme", ["README.md", "python/README.md"])
def test_the_readme_example_runs(readme: str, tmp_path: Path) -> None:
    (example,) = BLOCK.findall((DOCS.parent / readme).read_text())
    test_example_runs(example, tmp_path)


def test_the_package_description_has_no_links_into_the_repository() -> None:
    description = (DOCS.parent / "python" / "README.md").read_text()
    links = re.findall(r"\]\((.*?)\)", description)
    assert links
    assert all(link.startswith("https://") for link in links)


def test_the_suite_of_the_testing_page_passes(tmp_path: Path) -> None:
    page = (DOCS / "testing.md").read_text()
    files = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(files) == page.count("\n```") / 2
    for name, text in files:
        (tmp_path / name).write_text(text)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "--capture=no"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # It is as quiet as the page says.
    assert "UCX" not in result.stdout
    assert not result.stderr


def test_every_public_name_is_on_an_api_page() -> None:
    pages = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    assert not [name for name in nc.__all__ if not re.search(rf"\b{name}\b", pages)]
