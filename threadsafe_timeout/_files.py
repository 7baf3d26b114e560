"""Whether a file can be written, asked before the work whose result it is to hold; and what keeps ours out of git."""

from __future__ import annotations

import contextlib
import os
import stat

__all__ = ["OURS", "keep_out_of_git", "why_not_creatable", "why_not_writable"]

OURS = ".threadsafe_timeout"  # the folder that is for our files alone, unless a setting names another


def why_not_writable(path: str | os.PathLike[str]) -> str | None:
    """Why nothing can be written to `path`; None if it can. What is there is left as it is."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        made = True
    except OSError as error:
        return error.strerror
    else:
        made = False
        if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
            return None  # a pipe or a device: to open it may wait, or do something
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666))
        if made:
            os.unlink(path)
    except OSError as error:
        return error.strerror
    return None


def why_not_creatable(path: str | os.PathLike[str]) -> str | None:
    """The same for a file whose directories are made when it is: nothing is made now."""
    path = os.path.abspath(path)
    if os.path.exists(path):
        if not os.path.isfile(path):
            return "it is a directory" if os.path.isdir(path) else "it is no regular file"
        return None if os.access(path, os.W_OK) else "it may not be written to"
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        return f"{parent} is no directory"
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=parent):
            return None
    except OSError as error:
        return f"no file can be made in {parent} ({error.strerror})"


def keep_out_of_git(folder: str | os.PathLike[str]) -> None:
    """Have git pass over a folder that was just made for our files. (Not over one that was there: its owner may want to
    keep them.)"""
    with contextlib.suppress(OSError), open(os.path.join(folder, ".gitignore"), "x", encoding="utf-8") as file:
        file.write("# Written by threadsafe-timeout with this folder.\n*\n")
