"""Configures structlog when the application imports it, rather than importing it for every application.

structlog brings asyncio and rich: 30 ms that an application without it should not pay. If it is loaded already, it is
configured at once; else a finder at the head of `sys.meta_path` lets the others find it, and acts when its module has
been executed. It is taken away again then.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_log = logging.getLogger("tocsin")

Action = Callable[[], None]


class _Arrival(MetaPathFinder):
    """Waits for one module."""

    def __init__(self, name: str, action: Action) -> None:
        self._name = name
        self._action = action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with an `exec_module` that acts afterwards, once."""
        if fullname != self._name:
            return None
        others = (finder for finder in tuple(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        loader = spec.loader if spec is not None else None
        if loader is None:
            return spec

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)  # this instance's, not its class's
            loader.exec_module(module)
            if module.__name__ == self._name and self in sys.meta_path:  # still wanted
                sys.meta_path.remove(self)
                try:
                    self._action()
                except Exception:  # a guard: whoever imports it has nothing to do with us
                    _log.warning("%s was imported, but could not be configured", self._name, exc_info=True)

        # A loader of a frozen program may be a class, or take no attributes: then nothing is awaited.
        if not isinstance(loader, type):
            with contextlib.suppress(AttributeError, TypeError):
                loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def when_imported(name: str, action: Action) -> None:
    """Call this when the module has been imported: now, if it is, else then."""
    forget(name)
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Arrival(name, action))


def forget(name: str) -> None:
    """Undo `when_imported`."""
    sys.meta_path[:] = [f for f in sys.meta_path if not (isinstance(f, _Arrival) and f._name == name)]
