"""The former place of `_patching.install`. Programs ask here whether the line is in force (`installed()`)."""

from __future__ import annotations

from threadsafe_timeout._patching.install import install, installed, patched, uninstall

__all__ = ["install", "installed", "patched", "uninstall"]
