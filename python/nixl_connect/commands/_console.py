"""What commands have in common: how they print and fail, and say that they can print JSON."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

__all__ = ["Json", "fail", "show"]

_ANY_WIDTH = 1 << 16

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[red]error[/]: {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def show(what: RenderableType) -> None:
    """Print it; where nobody looks, without breaking a line, so that a path can be found in it."""
    console = Console()
    if console.is_terminal:
        console.print(what)
        return
    wide = console.options.update(max_width=_ANY_WIDTH)
    console.width = console.measure(what, options=wide).maximum
    with console.capture() as captured:
        console.print(what)
    print(*(line.rstrip() for line in captured.get().splitlines()), sep="\n")
