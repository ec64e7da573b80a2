"""Stand-ins for the engines that Dynamo's workers import: their models, and nothing that moves bytes.

A pytest plug-in (``-p engines``), and for other programs `install`. Whatever such a package is asked
for is a class that takes anything, gives anything, and passes pydantic's validation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ENGINES = (
    "diffusers",
    "kvbm",
    "nvtx",
    "sglang",
    "soundfile",
    "tensorrt_llm",
    "transformers",
    "vllm",
    "vllm_omni",
)


class _Meta(type):
    """Of the classes: anything is there, too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _class(f"{cls.__qualname__}.{name}")

    def __or__(cls, other: Any) -> Any:
        return Any

    __ror__ = __or__


def _class(name: str) -> type:
    return _Meta(name.rpartition(".")[2], (Anything,), {"__qualname__": name})


class Anything(metaclass=_Meta):
    """An object of an engine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        vars(self).update(kwargs)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.any_schema()

    @classmethod
    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # As a decorator it leaves what it decorates.
        return args[0] if args and callable(args[0]) else Anything()

    def __iter__(self) -> Any:
        return iter(())


@dataclass
class SamplingParams:
    """Of vLLM, which serializes it."""

    max_tokens: int = 1
    extra_args: dict[str, Any] | None = None


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "pytest")):  # pytest asks for its own
            raise AttributeError(name)
        made = SamplingParams if name == "SamplingParams" else _class(f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made


class _Finder:
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in ENGINES:
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__version__ = "0"  # type: ignore[attr-defined]


def install() -> None:
    """Have them imported from now on, where the real ones are not installed."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())  # type: ignore[arg-type]


install()
