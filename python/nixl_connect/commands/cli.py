"""The command ``nixl-connect``. Needs typer and rich: the extra ``cli``."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import nixl_connect as nc

from .._library import nixl_library_candidates
from . import doctor
from ._process import take_standard_output
from .bench import measure
from .bench_peer import Child, Server
from .bench_plot import plot as draw
from .bench_serve import serve
from .bench_work import PeerError, Result, Work, parse_counts, parse_sizes, size_text
from .providers import ProvidersError, link_providers
from .run import RunError, run

app: typer.Typer = typer.Typer(
    help="Move memory between processes and machines with RDMA over NIXL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench_app: typer.Typer = typer.Typer(
    help="Measure transfers between two processes of this host, or from another host.",
    invoke_without_command=True,
)
app.add_typer(bench_app, name="bench")

_MARKS = {
    "ok": "[green]ok[/]",
    "absent": "[dim]absent[/]",
    "warning": "[yellow]warning[/]",
    "error": "[red]error[/]",
}

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Sizes = Annotated[
    str, typer.Option(help="Bytes of a transfer, with a suffix K, M or G; several, by commas.")
]
InFlight = Annotated[str, typer.Option(help="Transfers at the same time; several, by commas.")]
Seconds = Annotated[float, typer.Option(help="How long each is measured.", min=0.01)]
Kind = Annotated[str, typer.Option(help="Where the memory is, on both sides: cpu or cuda:N.")]
Plot = Annotated[Optional[Path], typer.Option(help="Draw the result to this file (.svg, .png).")]  # noqa: UP045


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
        console = Console()
        table = Table(box=None, show_header=False)
        for _ in range(3):
            table.add_column(overflow="fold")
        for finding in findings:
            advice = f"\n[bold]{finding.advice}[/]" if finding.advice else ""
            table.add_row(finding.subject, _MARKS[finding.state], finding.detail + advice)
        console.print(table)
        console.print(f"\n{_MARKS[verdict.state]}: {verdict.detail}", highlight=False)
        if verdict.advice:
            console.print(verdict.advice, highlight=False)
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

    In all Python processes that it starts too. The program is not changed, nor what is installed.
    For example: nixl-connect run -m dynamo.sglang --model-path Qwen/Qwen3-0.6B
    """
    try:
        run(program)
    except RunError as error:
        _fail(str(error))


@app.command("rdma-providers")
def rdma_providers_command(
    folder: Annotated[Path, typer.Argument(help="Where to make the links.")],
) -> None:
    """Let NIXL's wheel use RDMA devices of drivers other than mlx5, such as rxe, irdma, bnxt_re.

    Makes a folder with links to the providers that the system has for them. Programs that are
    started with it in LD_LIBRARY_PATH use them.
    """
    candidates = nixl_library_candidates()
    if not candidates:
        _fail("NIXL is not installed from a wheel: its libibverbs is the system's")
    try:
        drivers = link_providers(folder.absolute(), Path(candidates[0]))
    except (ProvidersError, OSError) as error:
        _fail(str(error))
    Console(stderr=True).print(f"for devices of {', '.join(drivers)}", highlight=False)
    print(f"export LD_LIBRARY_PATH={folder.absolute()}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}")


@bench_app.callback()
def bench_here(
    context: typer.Context,
    sizes: Sizes = "4K,64K,1M,16M,64M",
    in_flight: InFlight = "1,16",
    seconds: Seconds = 1.0,
    kind: Kind = "cpu",
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Measure between two processes of this host, over loopback or shared memory."""
    if context.invoked_subcommand is None:
        _measure(Child(), sizes, in_flight, seconds, kind, plot, as_json)


@bench_app.command("serve")
def bench_serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any.", min=0, max=65535)] = 7654,
) -> None:
    """Offer memory to those who run `bench connect`, until stopped.

    Whoever can reach the port can have memory allocated here and read it: for trusted networks.
    """
    try:
        asyncio.run(serve(host, port))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except OSError as error:
        _fail(f"{host} port {port} cannot be listened on: {error.strerror or error}")
    except nc.TransferError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[red]error[/]: {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


@bench_app.command("connect")
def bench_connect(
    host: Annotated[str, typer.Argument(help="Where `bench serve` runs.")],
    port: Annotated[int, typer.Option(help="Its port.", min=1, max=65535)] = 7654,
    sizes: Sizes = "4K,64K,1M,16M,64M",
    in_flight: InFlight = "1,16",
    seconds: Seconds = 1.0,
    kind: Kind = "cpu",
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Measure reads from a host where `bench serve` runs."""
    _measure(Server(host, port), sizes, in_flight, seconds, kind, plot, as_json)


def _measure(
    peer: Child | Server,
    sizes: str,
    in_flight: str,
    seconds: float,
    kind: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    if plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise typer.BadParameter(
                "needs matplotlib: pip install 'nixl-connect[plot]'", param_hint="--plot"
            ) from None
        if plot.suffix not in (".pdf", ".png", ".svg") or not plot.parent.is_dir():
            raise typer.BadParameter(
                f"expected a .svg, .png or .pdf in a folder that is there, got {plot}",
                param_hint="--plot",
            )
    try:
        nc.Device(kind)
        works = [
            Work(size, count, seconds, kind)
            for count in parse_counts(in_flight)
            for size in parse_sizes(sizes)
        ]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("connecting".ljust(24), total=len(works))

        def begin(work: Work) -> None:
            progress.update(bar, description=work.title.ljust(24))

        def end(_: Result) -> None:
            progress.advance(bar)

        try:
            results = asyncio.run(measure(peer, works, begin, end))
        except (PeerError, nc.TransferError) as error:
            advice = ""
            if isinstance(error, nc.PeerUnreachableError):
                advice = "\nUCX_NET_DEVICES, on both hosts: an interface that leads to the other"
            _fail(f"{error}{advice}")
    if as_json:
        print(json.dumps([result.figures() for result in results], indent=1))
    else:
        Console().print(_table(results))
    if plot is not None:
        draw(results, plot)


def _table(results: list[Result]) -> Table:
    table = Table(title="whole reads: offer, metadata, transfer, completion on both sides")
    for heading in ("size", "in flight", "p50", "p99", "reads/s", "GB/s"):
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            size_text(r.work.size),
            str(r.work.in_flight),
            f"{r.p50 * 1e6:,.0f} µs",
            f"{r.p99 * 1e6:,.0f} µs",
            f"{r.rate:,.0f}",
            f"{r.rate * r.work.size / 1e9:,.2f}",
        )
    return table


def main() -> None:
    take_standard_output()
    app()
