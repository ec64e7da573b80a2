"""This library in the place of ``dynamo.nixl_connect``: in a process, in its children, by commands."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from nixl_connect.commands._dynamo import TESTED, find_dynamo, missing_names

VARIABLE = "NIXL_CONNECT_REPLACE_DYNAMO"
# What each child prints: the module that it gets.
SAYS = "import dynamo.nixl_connect as it; print(it.__name__)"
OURS = "nixl_connect"


def run(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=100,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split("\n")[:-1]


@pytest.fixture
def dynamo(tmp_path: Path) -> Path:
    """A folder with a Dynamo, whose module is not imported by anybody."""
    package = tmp_path / "dynamo" / "nixl_connect"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("class Connector: pass\n")
    (tmp_path / "dynamo" / "worker.py").write_text("from dynamo.nixl_connect import Connector\n")
    return tmp_path


def test_every_import_gets_this_library() -> None:
    said = run(
        """
        import importlib, importlib.util, sys
        import nixl_connect
        nixl_connect.install(); nixl_connect.install()
        import dynamo.nixl_connect
        import dynamo.nixl_connect as one
        from dynamo import nixl_connect as two
        from dynamo.nixl_connect import Connector, RdmaMetadata
        import dynamo.nixl_connect.errors as errors
        from dynamo.nixl_connect.errors import TransferError
        three = importlib.import_module("dynamo.nixl_connect")
        assert one is two is three is nixl_connect is dynamo.nixl_connect
        assert Connector is nixl_connect.Connector
        assert errors is nixl_connect.errors and TransferError is nixl_connect.TransferError
        assert importlib.util.find_spec("dynamo.nixl_connect") is not None
        assert nixl_connect.__spec__.name == "nixl_connect" == nixl_connect.__name__
        import pickle
        assert pickle.loads(pickle.dumps(dynamo.nixl_connect.Device("cpu"))) == one.Device("cpu")
        print("all")
        """
    )
    assert said == ["all"]


def test_with_dynamo_and_without(dynamo: Path, tmp_path: Path) -> None:
    code = f"import nixl_connect; nixl_connect.install(); {SAYS}; import dynamo; print(dynamo.__path__)"
    there = run(code, cwd=dynamo, PYTHONPATH=str(dynamo))
    assert there[0] == OURS
    assert str(dynamo) in there[1]
    # As where it is not installed.
    alone = f"""
        import sys
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name == "dynamo": return None
        from importlib.machinery import PathFinder
        class Without(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return None if name == "dynamo" else PathFinder.find_spec(name, path, target)
        sys.meta_path[sys.meta_path.index(PathFinder)] = Without
        import nixl_connect
        nixl_connect.install()
        {SAYS}
        nixl_connect.uninstall()
        try: import dynamo
        except ModuleNotFoundError: print("gone")
        """
    assert run(alone) == [OURS, "gone"]


def test_dynamo_s_own_folder_on_the_path(dynamo: Path) -> None:
    """There the other module has this library's very name."""
    path = str(dynamo / "dynamo")
    assert run(
        f"{SAYS}; print(hasattr(it, 'TransferError'))", PYTHONPATH=path, **{VARIABLE: "1"}
    ) == [
        OURS,
        "True",
    ]


def test_many_threads_import_it_at_once() -> None:
    said = run(
        """
        import sys, threading, time
        got, failed = [], []
        def work(i):
            time.sleep(0.01 * i)
            try:
                from dynamo.nixl_connect import Connector, errors
                got.append((Connector, errors))
            except BaseException as error:
                failed.append(error)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
        for t in threads: t.start()
        for t in threads: t.join()
        import nixl_connect, nixl_connect.errors
        assert not failed, failed
        assert set(got) == {(nixl_connect.Connector, nixl_connect.errors)}
        for module in (nixl_connect, nixl_connect.errors):
            assert module.__spec__.name == module.__name__ and not module.__spec__._initializing
        print("all")
        """,
        **{VARIABLE: "1"},
    )
    assert said == ["all"]


def test_what_is_not_there() -> None:
    said = run(
        """
        import importlib.util, nixl_connect
        nixl_connect.install()
        print(importlib.util.find_spec("dynamo.nixl_connect.nothing"))
        try: import dynamo.nixl_connect.nothing
        except ModuleNotFoundError as error: print(error)
        """
    )
    assert said == ["None", "No module named 'dynamo.nixl_connect.nothing'"]


def test_modules_that_load_others_when_they_are_looked_at(dynamo: Path) -> None:
    said = run(
        """
        import sys, types
        class Lazy(types.ModuleType):
            def __getattribute__(self, name): raise RuntimeError("no GPU")
        class Meta(type):
            def __getattribute__(cls, name): raise RuntimeError("no GPU either")
        holder = types.ModuleType("holder")
        holder.value, holder.other = Lazy("lazy"), Meta("Odd", (), {})
        sys.modules["holder"], sys.modules["lazy"] = holder, holder.value
        import warnings, dynamo.nixl_connect, dynamo.worker, nixl_connect
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            nixl_connect.install()
        print("dynamo.worker:" in str(caught[0].message), "holder" in str(caught[0].message))
        """,
        PYTHONPATH=str(dynamo),
    )
    assert said == ["True False"]


def test_uninstall_takes_all_back(dynamo: Path) -> None:
    said = run(
        f"""
        import os, sys
        import nixl_connect
        nixl_connect.uninstall()
        before = list(sys.meta_path)
        nixl_connect.install()
        {SAYS}
        assert os.environ["{VARIABLE}"] == "1"
        nixl_connect.uninstall()
        assert sys.meta_path == before and "{VARIABLE}" not in os.environ
        import dynamo.nixl_connect as it
        print(it.__name__, hasattr(it, "TransferError"))
        nixl_connect.uninstall()
        """,
        PYTHONPATH=str(dynamo),
    )
    assert said == [OURS, "dynamo.nixl_connect False"]


def test_who_has_imported_it_before_is_named(dynamo: Path) -> None:
    said = run(
        f"""
        import warnings
        import dynamo.nixl_connect as original
        import dynamo.worker
        import nixl_connect
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            nixl_connect.install()
        (warning,) = caught
        print(warning.category.__name__, warning.filename)
        print(warning.message)
        {SAYS}
        nixl_connect.uninstall()
        import dynamo.nixl_connect as again
        assert again is original is dynamo.nixl_connect
        """,
        PYTHONPATH=str(dynamo),
    )
    assert said[0] == "RuntimeWarning <string>"
    assert "used by __main__, dynamo.worker: install it before" in said[1]
    assert said[2] == OURS


@pytest.mark.parametrize(
    ("value", "ours"),
    [("1", True), ("true", True), ("YES", True), ("0", False), ("", False), ("Off ", False)],
)
def test_the_environment_variable(dynamo: Path, value: str, ours: bool) -> None:
    said = run(SAYS, PYTHONPATH=str(dynamo), **{VARIABLE: value})
    assert said == [OURS if ours else "dynamo.nixl_connect"]


def test_a_process_that_does_not_ask_pays_nothing() -> None:
    code = "import sys; print([name for name in sys.modules if 'nixl' in name])"
    assert run(code) == ["[]"]
    assert run(code, **{VARIABLE: "1"}) == ["['_nixl_connect_replace']"]


PROGRAM = f"""
import multiprocessing, subprocess, sys

def child(queue):
    import dynamo.nixl_connect as it
    queue.put(it.__name__)

if __name__ == "__main__":
    {SAYS}
    print(sys.argv[1:], flush=True)
    subprocess.run([sys.executable, "-c", "{SAYS}"], check=True)
    for method in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(queue.get())
        process.join()
"""


@pytest.mark.parametrize("how", ["script", "module", "command", "directly", "in the program"])
def test_a_program_and_its_children(how: str, dynamo: Path) -> None:
    (dynamo / "program.py").write_text(PROGRAM)
    arguments = ["--help", "-x", "a b"]
    command = [sys.executable, "-m", "nixl_connect", "run"]
    program = {
        "script": ["program.py"],
        "module": ["--", "-m", "program"],
        "command": [sys.executable, "-u", "program.py"],
        "directly": ["program.py"],
        "in the program": ["program.py"],
    }[how]
    environment = {**os.environ, "PYTHONPATH": str(dynamo)}
    if how == "directly":
        environment[VARIABLE] = "1"
        command = [sys.executable]
    elif how == "in the program":
        command = [sys.executable]
        installs = "import nixl_connect; nixl_connect.install()\n"
        # Children that are spawned import the program, too.
        (dynamo / "program.py").write_text(installs + PROGRAM)
    result = subprocess.run(
        [*command, *program, *arguments],
        cwd=dynamo,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == [OURS, str(arguments), *4 * [OURS]]


def test_a_command_comes_before_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "python3").mkdir()
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__main__.py").write_text("print('of the folder')")
    for arguments, expected in (
        (["python3", "-c", "print(1)"], "1\n"),
        (["program"], "of the folder\n"),
        (["bash", "-c", "yes | head -1"], "y\n"),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "nixl_connect", "run", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert (result.stdout, result.stderr) == (expected, "")


def test_run_is_the_program(tmp_path: Path) -> None:
    """Its process, its standard output, its exit status."""
    code = "import os, sys; print(os.getpid(), os.isatty(1)); sys.exit(7)"
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-m", "nixl_connect", "run", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = process.communicate(timeout=100)
    assert (output, process.returncode) == (f"{process.pid} False\n", 7), errors


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing argument"),
        (["nowhere"], 1, "nowhere: expected a script, a command in PATH, or -m and a module"),
        (["-m", "nowhere_at_all"], 1, "No module named nowhere_at_all"),
    ],
)
def test_what_cannot_be_run(arguments: list[str], status: int, message: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nixl_connect", "run", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert result.returncode == status
    assert message in result.stderr


def test_what_the_doctor_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def said(**environment: str) -> str:
        code = "from nixl_connect.commands import _dynamo; print(*_dynamo.find_dynamo())"
        return run(code, **environment)[0]

    assert "state='ok', detail='this library, by " in said(**{VARIABLE: "1"})
    pytest.importorskip("dynamo.nixl_connect")
    own = said()
    assert "state='ok', detail=\"Dynamo's own, ai-dynamo-runtime " in own
    (tmp_path / "nixl").mkdir()
    (tmp_path / "nixl" / "__init__.py").write_text("raise ImportError('it lacks a wheel')")
    broken = said(PYTHONPATH=str(tmp_path))
    assert "state='warning', detail=\"Dynamo's own, ai-dynamo-runtime " in broken
    assert "which cannot load NIXL: ImportError: it lacks a wheel" in broken
    monkeypatch.setattr("nixl_connect.commands._dynamo.TESTED", ("0.7.1",))
    (_, version) = find_dynamo()
    assert version.state == "warning"
    assert "is not among those tested with 0.7.1; this library has all its names" in version.detail
    monkeypatch.setattr(
        "nixl_connect.commands._dynamo.missing_names", lambda source: ["Connector.fly"]
    )
    (_, version) = find_dynamo()
    assert (version.state, "lacks: Connector.fly" in version.detail) == ("warning", True)
    monkeypatch.setattr("nixl_connect.commands._dynamo._SOURCE", "nowhere.py")
    (_, version) = find_dynamo()
    assert (version.state, "could not be looked at" in version.detail) == ("warning", True)


def test_names_that_are_missing() -> None:
    source = """
class _Private: pass
class Connector:
    def begin_read(self): ...
    def fly(self): ...
    def _hidden(self): ...
class RdmaMetadata:
    nixl_metadata: str
    colour: str = ""
    @field_validator("colour")
    def check(cls, value): ...
class Teleport: pass
def beam(): pass
def _quietly(): pass
"""
    missing = ["Connector.fly", "RdmaMetadata.colour", "Teleport", "beam"]
    assert missing_names(source) == missing
    assert TESTED
