"""What the doctor has to say of one thing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    subject: str
    state: str
    """``"ok"``; ``"absent"``: not there, and not needed; ``"warning"``; ``"error"``: the library
    does not work."""
    detail: str
    advice: str = ""
