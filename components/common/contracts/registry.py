"""Named definitions that are found by the file they live in: attacks, datasets, models, signals."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import components
from components.common.contracts.errors import ConfigError

__all__ = ["Registry", "registered_names"]

T = TypeVar("T")
_REGISTERED = re.compile(r'\.register\(\s*"([^"]+)"\s*\)')


@functools.cache
def registered_names(*packages: str) -> tuple[str, ...]:
    """The names that the modules of some packages register, sorted.

    The modules are read and not imported, so that a name can be checked where PyTorch is not there or not wanted.

    Args:
        packages: Dotted names below ``components``, as for ``Registry``.
    """
    root = Path(next(iter(components.__path__))).parent
    modules = (path for name in packages for path in root.joinpath(*name.split(".")).glob("[!_]*.py"))
    return tuple(sorted({found for path in modules for found in _REGISTERED.findall(path.read_text("utf-8"))}))


class Registry(Generic[T]):
    """A name-to-definition table that fills itself from the modules of its package.

    A definition is one file in that package with one decorated object, so adding an attack, a dataset, a
    model or a signal changes no other file. Modules are imported at the first look-up, never before: a stage that
    needs one dataset does not pay for torch because an attack does.

    Args:
        kind: What the entries are, for messages ("attack").
        package: Dotted name of the package whose modules register themselves.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters an object under ``name``.

        Raises:
            ConfigError: The name is taken; the message names the module that holds it.
        """

        def enter(entry: T) -> T:
            origin = getattr(entry, "__module__", "an object without a module")
            if name in self._entries:
                raise ConfigError(
                    f"{self.kind} '{name}'",
                    expected="a name that is not taken",
                    found=f"it registered by {self._origins[name]} and again by {origin}",
                    hint="Rename one of the two.",
                )
            self._entries[name] = entry
            self._origins[name] = origin
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            ConfigError: No such entry; the message lists the known names.
        """
        self._load()
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(
                f"{self.kind} '{name}'",
                expected=f"one of {', '.join(self)}",
                found="no such name",
                hint=f"Choose a known {self.kind}, or add a file to {self._package.replace('.', '/')}/.",
            ) from None

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        # Set first: a module that looks the registry up while it is being imported must not recurse.
        self._loaded = True
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self._package}.{module.name}")
