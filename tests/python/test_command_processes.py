"""What the commands' processes print where, and what their children import."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nixl_connect as nc
import pytest
from nixl_connect.commands import _process, doctor, probe

BENCH = ("bench", "--sizes", "4K", "--in-flight", "1", "--seconds", "0.01")
# UCX warns of the first, and with the others both libraries write thousands of lines.
TALKATIVE = {"UCX_FOO": "1", "UCX_LOG_LEVEL": "debug", "NIXL_LOG_LEVEL": "DEBUG"}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """What an installer makes of the command: a script in a folder of its own."""
    script = tmp_path / "bin/nixl-connect"
    script.parent.mkdir()
    script.write_text("from nixl_connect.__main__ import main\nmain()\n")
    return script


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        **options,
    )


@pytest.fixture(params=["", "stdout"], ids=["default", "stdout"])
def talkative(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TALKATIVE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UCX_LOG_FILE", raising=False)
    if request.param:
        monkeypatch.setenv("UCX_LOG_FILE", request.param)


@pytest.mark.usefixtures("talkative")
def test_logs_go_to_standard_error() -> None:
    figures = run("-m", "nixl_connect", *BENCH, "--json")
    assert json.loads(figures.stdout)[0]["reads"] >= 2
    assert "unused environment variable: UCX_FOO" in figures.stderr
    assert "UCX  DEBUG" in figures.stderr
    table = run("-m", "nixl_connect", *BENCH).stdout
    assert "4 KiB" in table
    assert {line[0] for line in table.splitlines()} <= set(" w┏┃┡│└")


@pytest.mark.usefixtures("talkative")
def test_the_doctor_s_answer_is_its_own() -> None:
    findings = json.loads(run("-m", "nixl_connect", "doctor", "--json").stdout)
    assert findings[-1]["state"] == "ok"
    answer = run(*probe.command("host")[1:])
    assert json.loads(answer.stdout)["bytes"] == 16 << 20
    assert "UCX  DEBUG" in answer.stderr


@pytest.mark.usefixtures("talkative")
def test_logs_have_no_place_where_there_is_no_standard_error() -> None:
    command = [sys.executable, "-m", "nixl_connect", *BENCH, "--json"]
    closed = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, check=False, timeout=100
    )
    assert json.loads(closed.stdout)[0]["reads"] >= 2


def test_the_doctor_reads_ucx_s_log_wherever_the_user_s_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UCX_LOG_FILE", str(tmp_path / "log"))
    monkeypatch.setenv("UCX_LOG_LEVEL", "fatal")
    found = {finding.subject: finding for finding in doctor.examine()}
    assert found["UCX"].detail[0].isdigit()
    assert "tcp" in found["transports in use"].detail


def shadow(folder: Path, *names: str) -> Path:
    """The folder, with modules that end whatever imports them."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.py").write_text("raise SystemExit(f'imported {__file__}')")
    return folder


def test_modules_in_the_current_folder_are_left_alone(program: Path, tmp_path: Path) -> None:
    names = ("asyncio", "json", "numpy", "pydantic", "rich", "signal", "torch", "typer")
    folder = shadow(tmp_path / "work", *names)
    shadow(folder / "nixl_connect", "__init__")
    for command in (BENCH, ("doctor",)):
        result = run(program, *command, cwd=folder)
        assert result.returncode == 0, result.stdout + result.stderr


def test_python_m_searches_the_current_folder_no_further(tmp_path: Path) -> None:
    folder = shadow(tmp_path / "work", "matplotlib", "numpy", "rich", "torch", "typer")
    for command in ((*BENCH, "--plot", "plot.svg"), ("doctor",)):
        result = run("-m", "nixl_connect", *command, cwd=folder)
        assert result.returncode == 0, result.stdout + result.stderr


def test_sources_alone_say_what_they_lack(tmp_path: Path) -> None:
    package = Path(nc.__file__).parent
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(package, tmp_path / "nixl_connect", ignore=ignored)
    result = run("-m", "nixl_connect", "doctor", cwd=tmp_path)
    assert f"{tmp_path / 'nixl_connect'} has sources only" in result.stderr
    assert result.returncode == 1


WHERE = "import nixl_connect; print(nixl_connect.__file__)"


def test_children_have_the_same_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shadow(tmp_path / "work", "json")
    shadow(tmp_path / "work/nixl_connect", "__init__")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    child = run(*_process.child(WHERE)[1:])
    assert child.stdout.strip() == nc.__file__, child.stderr


def test_children_have_the_package_that_is_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Path(nc.__file__).parents[1]
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", ["", *[path for path in sys.path if path != str(home)]])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    child = run(*_process.child(WHERE)[1:])
    assert child.stdout.strip() == nc.__file__, child.stderr
