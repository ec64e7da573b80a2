"""The commands ``nixl-connect bench``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import nixl_connect as nc

from ._console import Json, fail, show
from .bench import measure
from .bench_peer import Child, Server
from .bench_plot import plot as draw
from .bench_report import ReportError, Run, compared, write
from .bench_serve import serve
from .bench_work import Figures, PeerError, Result, Work, parse_counts, parse_sizes, size_text

__all__ = ["bench_app"]

bench_app: typer.Typer = typer.Typer(
    help="Measure transfers between two processes of this host, or from another host.",
    invoke_without_command=True,
)
Sizes = Annotated[
    str, typer.Option(help="Bytes of a transfer, with a suffix K, M or G; several, by commas.")
]
InFlight = Annotated[str, typer.Option(help="Transfers at the same time; several, by commas.")]
Seconds = Annotated[float, typer.Option(help="How long each is measured.", min=0.01)]
Kind = Annotated[str, typer.Option(help="Where the memory is, on both sides: cpu or cuda:N.")]
Plot = Annotated[Optional[Path], typer.Option(help="Draw the result to this file (.svg, .png).")]  # noqa: UP045
Html = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--html", help="Write one page with tables, plots and the machine's facts to this file."
    ),
]
Compare = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Show this run beside another: a page of --html, or a file of --json."),
]


@bench_app.callback()
def bench_here(
    context: typer.Context,
    sizes: Sizes = "4K,64K,1M,16M,64M",
    in_flight: InFlight = "1,16",
    seconds: Seconds = 1.0,
    kind: Kind = "cpu",
    plot: Plot = None,
    page: Html = None,
    compare: Compare = None,
    as_json: Json = False,
) -> None:
    """Measure between two processes of this host, over loopback or shared memory."""
    if context.invoked_subcommand is None:
        _measure(Child(), sizes, in_flight, seconds, kind, Output(plot, page, compare, as_json))


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
        fail(f"{host} port {port} cannot be listened on: {error.strerror or error}")
    except nc.TransferError as error:
        fail(str(error))


@bench_app.command("connect")
def bench_connect(
    host: Annotated[str, typer.Argument(help="Where `bench serve` runs.")],
    port: Annotated[int, typer.Option(help="Its port.", min=1, max=65535)] = 7654,
    sizes: Sizes = "4K,64K,1M,16M,64M",
    in_flight: InFlight = "1,16",
    seconds: Seconds = 1.0,
    kind: Kind = "cpu",
    plot: Plot = None,
    page: Html = None,
    compare: Compare = None,
    as_json: Json = False,
) -> None:
    """Measure reads from a host where `bench serve` runs."""
    output = Output(plot, page, compare, as_json)
    _measure(Server(host, port), sizes, in_flight, seconds, kind, output)


@dataclass(frozen=True)
class Output:
    """Where the figures go. Raises `typer.BadParameter` before anything is measured."""

    plot: Path | None
    page: Path | None
    compare: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        _check_file(self.plot, "--plot", (".svg", ".png", ".pdf"))
        _check_file(self.page, "--html", (".html", ".htm"))
        # Now, for nobody wants to hear of it afterwards.
        _ = self.other

    @cached_property
    def other(self) -> Run | None:
        """The run to compare with."""
        try:
            return None if self.compare is None else Run.load(self.compare)
        except ReportError as error:
            raise typer.BadParameter(str(error), param_hint="--compare") from None

    def write(self, peer: str, figures: list[Figures]) -> None:
        measured = Run.now(peer, figures)
        if self.as_json:
            print(json.dumps(figures, indent=1))
        else:
            show(_table(measured, self.other))
        if self.plot is not None:
            draw(figures, self.plot)
        if self.page is not None:
            write(self.page, measured, self.other)


def _check_file(path: Path | None, option: str, suffixes: tuple[str, ...]) -> None:
    if path is None:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise typer.BadParameter(
            "needs matplotlib: pip install 'nixl-connect[plot]'", param_hint=option
        ) from None
    if path.suffix not in suffixes or not path.parent.is_dir():
        *most, last = suffixes
        raise typer.BadParameter(
            f"expected a {', '.join(most)} or {last} in a folder that is there, got {path}",
            param_hint=option,
        )


def _measure(
    peer: Child | Server,
    sizes: str,
    in_flight: str,
    seconds: float,
    kind: str,
    output: Output,
) -> None:
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
            # Either side may be the first to say so.
            if isinstance(error, nc.PeerUnreachableError) or "'peer_unreachable'" in str(error):
                advice = "\nUCX_NET_DEVICES, on both hosts: an interface that leads to the other"
            fail(f"{error}{advice}")
    output.write(peer.name, [result.figures() for result in results])


def _table(run: Run, other: Run | None) -> Table:
    table = Table(title="whole reads: offer, metadata, transfer, completion on both sides")
    headings = ["size", "in flight", "p50", "p99", "reads/s", "GB/s"]
    if other is not None:
        headings.append("rate over before")
    for heading in headings:
        table.add_column(heading, justify="right")
    for of, ratio in compared(run, other):
        cells = [
            size_text(of["size"]),
            str(of["in_flight"]),
            f"{of['p50_us']:,.0f} µs",
            f"{of['p99_us']:,.0f} µs",
            f"{of['reads_per_second']:,.0f}",
            f"{of['gigabytes_per_second']:,.2f}",
        ]
        if other is not None:
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        table.add_row(*cells)
    return table
