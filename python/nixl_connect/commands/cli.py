"""The command ``nixl-connect``. Needs typer and rich: the extra ``cli``."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .._library import nixl_library_candidates
from . import doctor
from ._console import Json, fail, show
from ._process import take_standard_output
from .bench_cli import bench_app
from .providers import ProvidersError, link_providers
from .run import RunError, run
from .top import MetricsError, fetch, tables, url_of

app: typer.Typer = typer.Typer(
    help="Move memory between processes and machines with RDMA over NIXL.",
    epilog="For C++ projects: --cmake-dir alone prints where CMake finds this package's C++ "
    "library; --nixl-library alone prints which libnixl_capi.so a connector would load.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app, name="bench")

_MARKS = {
    "ok": "[green]ok[/]",
    "absent": "[dim]absent[/]",
    "warning": "[yellow]warning[/]",
    "error": "[red]error[/]",
}


@app.command("doctor")
def doctor_command(as_json: Json = False) -> None:
    """Say what is installed, what works here, and what to do about what does not.

    The exit status is 1 when the library does not work here.
    """
    with Console(stderr=True).status("checking"):
        findings = doctor.examine()
    verdict = doctor.verdict(findings)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in [*findings, verdict]]
        print(json.dumps(rows, indent=1))
    else:
        table = Table(box=None, show_header=False)
        for _ in range(3):
            table.add_column(overflow="fold")
        for finding in findings:
            detail = Text(finding.detail)
            if finding.advice:
                detail.append(f"\n{finding.advice}", "bold")
            table.add_row(finding.subject, _MARKS[finding.state], detail)
        summary = Text.from_markup(f"\n{_MARKS[verdict.state]}: ").append(verdict.detail)
        if verdict.advice:
            summary.append(f"\n{verdict.advice}")
        show(Group(table, summary))
    raise typer.Exit(1 if verdict.state == "error" else 0)


@app.command(
    "run",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run_command(
    program: Annotated[
        list[str],
        typer.Argument(help="`-m` and a module, a script, or a command, with its arguments."),
    ],
) -> None:
    """Run a program with this library in the place of dynamo.nixl_connect.

    All Python processes that it starts use it too. Neither the program nor any installed package
    is changed.
    For example: nixl-connect run -m dynamo.sglang --model-path Qwen/Qwen3-0.6B
    """
    try:
        run(program)
    except RunError as error:
        fail(str(error))


@app.command("rdma-providers")
def rdma_providers_command(
    folder: Annotated[Path, typer.Argument(help="Where to make the links.")],
) -> None:
    """Let NIXL's wheel use RDMA devices of drivers other than mlx5, such as rxe, irdma, bnxt_re.

    Makes a folder with links to the system's providers for these devices. Programs that are
    started with the folder in LD_LIBRARY_PATH use the providers.
    """
    candidates = nixl_library_candidates()
    if not candidates:
        fail("NIXL is not installed from a wheel: its libibverbs is the system's")
    try:
        drivers = link_providers(folder.absolute(), Path(candidates[0]))
    except (ProvidersError, OSError) as error:
        fail(str(error))
    Console(stderr=True).print(f"for devices of {', '.join(drivers)}", highlight=False)
    print(f"export LD_LIBRARY_PATH={folder.absolute()}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}")


@app.command("top")
def top_command(
    address: Annotated[
        str, typer.Argument(help="Where the worker exposes its metrics: host:port, or a URL.")
    ],
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 1.0,
    count: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="End after so many looks, and print each.", min=1),
    ] = None,
) -> None:
    """Show what a worker's connectors do, by the metrics that it exposes for Prometheus.

    Rates are since the previous look. The mean time is that of reads and writes, from the call to
    completion. "Failed" counts since the worker began, with the reasons below it.
    """
    url = url_of(address)
    try:
        before = fetch(url)
        console = Console()
        with Live(console=console, auto_refresh=False, screen=count is None) as live:
            for look in itertools.count(1):
                time.sleep(interval)
                now = fetch(url)
                heading = Text(f"{url}  {time.strftime('%H:%M:%S')}")
                shown = Group(heading, *tables(before, now, console.width))
                if count is None:
                    live.update(shown, refresh=True)
                else:
                    live.console.print(shown)
                if look == count:
                    break
                before = now
    except MetricsError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def main() -> None:
    take_standard_output()
    app()
