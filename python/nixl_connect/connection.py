"""The local side of one operation."""

from __future__ import annotations

from typing import Protocol, SupportsIndex

from ._arguments import check_count
from ._core import Connector as CoreConnector
from .stats import ConnectorStats

__all__ = ["Connection"]


class AnyConnector(Protocol):
    """A `Connector`, as connections and operations know it."""

    _core: CoreConnector
    _auth_key: bytes | None

    @property
    def name(self) -> str:
        """The worker's name."""

    @property
    def nixl_library(self) -> str:
        """Path of the NIXL library in use; empty before the agent is made."""

    @property
    def hostname(self) -> str:
        """The name of this host."""

    def stats(self) -> ConnectorStats: ...
    def close(self) -> None: ...
    async def aclose(self) -> None: ...
    async def _started(self) -> None: ...


class Connection:
    """The local side of one operation, or a handle on a connector's agent.

    Each operation has its own. All connections of a connector share its agent.

    Parameters
    ----------
    connector
        The connector.
    number
        A number above 0; the name is ``<connector>-<number>``.
    """

    def __init__(self, connector: AnyConnector, number: SupportsIndex) -> None:
        core = getattr(connector, "_core", None)
        if not isinstance(core, CoreConnector):
            raise TypeError(f"connector: expected Connector, got {type(connector).__name__}")
        number = check_count(number, "number", 1, (1 << 63) - 1)
        self._connector = connector
        self._connector_core = core
        self._name = f"{connector.name}-{number}"

    @property
    def connector(self) -> AnyConnector:
        """The connector."""
        return self._connector

    @property
    def name(self) -> str:
        """``<connector>-<number>``."""
        return self._name

    @property
    def metadata(self) -> bytes:
        """The agent's whole NIXL metadata: how to reach it, and every registered region.

        What an operation sends (`PassiveOperation.metadata`) names its own regions only.
        Blocks until the agent is made.
        """
        return self._connector_core.agent_metadata()

    async def initialize(self) -> None:
        """Make the agent, if that has not been done."""
        await self._connector._started()

    @property
    def _registrar_core(self) -> CoreConnector:
        return self._connector_core

    def __repr__(self) -> str:
        return f"Connection(name={self._name!r})"

    def __str__(self) -> str:
        return self._name


def core_of(connection: Connection) -> CoreConnector:
    """The core's connector behind a connection. Raises `TypeError` for anything else."""
    try:
        return connection._connector_core
    except AttributeError:
        pass
    raise TypeError(f"connection: expected Connection, got {type(connection).__name__}")
