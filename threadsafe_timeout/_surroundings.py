"""What this process is, as far as it decides whether anything can be patched in it."""

from __future__ import annotations

__all__ = ["in_main_interpreter"]


def in_main_interpreter() -> bool:
    """False in a sub-interpreter. Some have no threads, others no daemons, and one that is destroyed while a thread of
    ours is alive takes the process with it."""
    try:
        from _thread import _is_main_interpreter  # type: ignore[attr-defined,unused-ignore]  # from 3.13 on
    except ImportError:
        pass
    else:
        return bool(_is_main_interpreter())
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found,unused-ignore]  # up to 3.12
    except ImportError:  # an interpreter that has no others
        return True
    return bool(interpreters.get_current() == interpreters.get_main())
