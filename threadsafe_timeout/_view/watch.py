"""`threadsafe-timeout watch`: follows the files of a run, on a screen, in lines, once, or for programs.

It reads what is new, once a second. The only thing it ever writes into the run's folder is the request for stacks, when
somebody opens a worker.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import deque
from typing import Any

from threadsafe_timeout._errors import MissingExtraError, ThreadsafeTimeoutError
from threadsafe_timeout._text import escaped
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._view.keys import Keys, keys_of_terminal
from threadsafe_timeout._view.output import only_ascii, say
from threadsafe_timeout._view.picture import Picture, as_json, important, picture_of
from threadsafe_timeout._view.plain import counts_line, lines_of, pace_line
from threadsafe_timeout._view.reading import EventReader, NoRunError, Run, find_run, read_run
from threadsafe_timeout._view.words import event_line

__all__ = ["Follower", "follow_in_lines", "follow_on_screen", "is_screen", "show_json", "show_once", "watch"]

_REFRESH = 1.0  # seconds
_SUMMARY = 10.0  # seconds between two lines of numbers
_EVENTS = 500  # kept for the list and for the median
_TAIL = 1 << 18  # bytes of events read at the start


class Follower:
    """A run that is followed. If none was asked for by name, it goes on with the next one when this one is over."""

    def __init__(self, target: str | None) -> None:
        self._newest = target is None
        self.events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._take(find_run(target))

    def _take(self, run: Run) -> None:
        self.run = run
        self._reader = EventReader(run.folder, last=_TAIL)
        self.events.clear()
        self.events.extend(self._reader.new())

    def refresh(self) -> list[dict[str, Any]]:
        """Read what is new. The new events."""
        try:
            self.run = read_run(self.run.folder)
            if self._newest and self.run.state != "running" and (latest := find_run()).state == "running":
                self._take(latest)
                return list(self.events)
        except NoRunError:  # its folder was deleted: the last that was read stays
            return []
        new = list(self._reader.new())
        self.events.extend(new)
        return new

    def picture(self, order: str = "trouble") -> Picture:
        return picture_of(self.run, self.events, _clock.wall_time(), order)


def show_once(follower: Follower) -> None:
    """The run as it is now, in lines."""
    say(lines_of(follower.picture(), follower.events, only_ascii()))


def show_json(follower: Follower) -> None:
    """The run as it is now, as one JSON object."""
    events = important(follower.events, 50)
    sys.stdout.write(json.dumps(as_json(follower.picture(), events), indent=2) + "\n")


def follow_in_lines(follower: Follower) -> None:
    """The run as it is now; then its events as they come, and its numbers when they change, until it is over."""
    show_once(follower)
    said, since = counts_line(follower.picture()), _clock.monotonic()
    while follower.run.state == "running":
        Keys(None).read(_REFRESH)
        new = follower.refresh()
        picture = follower.picture()
        say(event_line(event, picture.now) for event in important(new, 50))
        counts = counts_line(picture)
        if picture.run.state != "running":
            say(["", f"{picture.title} · {picture.state}", *(f"! {note}" for note in picture.notes), counts])
        elif counts != said and _clock.monotonic() - since >= _SUMMARY:
            pace = pace_line(picture)
            say([counts + (pace and f" · {pace}"), *(f"! {note}" for note in picture.notes)])
            said, since = counts, _clock.monotonic()


def is_screen() -> bool:
    """Whether standard output is a terminal on which a screen can be drawn."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def follow_on_screen(follower: Follower) -> None:
    """The run on a terminal, until q. Raises MissingExtraError without rich."""
    try:
        import rich  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtraError("threadsafe-timeout watch without --once or --json", "view", "rich") from error
    from threadsafe_timeout._view.session import Session

    with keys_of_terminal() as keys:
        try:
            Session(follower, only_ascii()).run(keys, _REFRESH)
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            # The terminal was closed.


def watch(target: str | None, once: bool, as_object: bool) -> int:
    """The command. The exit status is 2 if there is no such run."""
    try:
        follower = Follower(target)
        if as_object:
            show_json(follower)
        elif once:
            show_once(follower)
        elif is_screen():
            follow_on_screen(follower)
        else:
            follow_in_lines(follower)
    except PermissionError as error:
        sys.stderr.write(f"threadsafe-timeout watch: {escaped(str(error))}: it is another user's run\n")
        return 2
    except MissingExtraError:
        raise
    except ThreadsafeTimeoutError as error:
        sys.stderr.write(f"threadsafe-timeout watch: {escaped(str(error))}\n")
        return 2
    return 0
