"""What is released; `make wheel` and `make sdist` check more of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import nixl_connect as nc
import pytest

ROOT = Path(__file__).parents[2]
TOP = {"CHANGELOG.md", "CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT, check=True)
    (made,) = folder.iterdir()
    return made


def test_version_is_the_projects() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert nc.__version__ == declared[1] == importlib.metadata.version("nixl-connect")
    assert f"## {nc.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_sdist_has_what_the_wheel_is_built_from(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        str(path.relative_to(ROOT))
        for folder in ("cmake", "cpp", "python")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    assert names == TOP | sources


@pytest.mark.skipif(importlib.util.find_spec("twine") is None, reason="`make sdist` installs it")
def test_index_takes_the_metadata(sdist: Path) -> None:
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", sdist], check=True)
