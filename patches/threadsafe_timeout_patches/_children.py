"""Children of a fork server get what `install()` gave their parent, as forked children do.

Since 3.14 the fork server is what `multiprocessing` uses unless told otherwise; before, it forked. The server is an
interpreter of its own, so its children start without the patches. What a child is to run comes to it pickled, after
its `sys.path` was set: an attribute of the process object that is pickled as a call installs there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from threadsafe_timeout import _settings
from threadsafe_timeout._patching import install as _install

__all__ = ["WithTheLine", "install_in_child"]


class WithTheLine:
    """Unpickled, it has called `install()` with the settings that were given to the parent's."""

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], None], tuple[dict[str, Any]]]:
        values, sources = _settings.settings(), _settings.sources()
        return install_in_child, ({name: getattr(values, name) for name in sources if sources[name] == "install()"},)


def install_in_child(given: dict[str, Any]) -> None:
    """Install, unless the child's own main module has."""
    if _install.installed() is None:
        _install.install(**given)
