"""The link between a program and a Dask cluster: one client, which is made anew when the scheduler was lost.

All that is done with Dask's client is done in the thread of its event loop, where nothing interrupts it. The threads of
the pool ask for it and wait, under the scopes of their tasks.

Guarantees:

- A task is sent again when its node, or the scheduler, was lost before there was an answer: it is run at least once,
  and one answer counts.
- A scheduler that is gone is waited for, with back-off, for `reconnect` seconds; then every task fails with
  `ClusterLost`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any

import dask
import distributed
from distributed import KilledWorker

from threadsafe_timeout._errors import ClusterLost
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import DaemonThread
from threadsafe_timeout.engines._node import PREFIX, Letting, run_there
from threadsafe_timeout.engines._waiter import Waiter

__all__ = ["Link"]

_dask: Any = distributed  # its types are only half there
logger = logging.getLogger("threadsafe_timeout")

_CONNECT = 10.0  # seconds for one attempt to connect, and to take leave
_ANSWER = 60.0  # seconds for a scheduler that is there to take up a client: on a machine that stands still, too
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two of them
_LOOK = 5.0  # seconds between two looks whether the client is there; an answer, or its loss, is told at once
_PATIENCE = 30.0  # seconds that tasks wait for a cluster without workers, before the log says so
_LOSSES = 20  # nodes that a task may lose before it is to blame
_OWN = {
    "distributed.scheduler.allowed-failures": _LOSSES,
    "distributed.scheduler.worker-ttl": "30s",  # after that a frozen worker is given up
    "distributed.deploy.lost-worker-timeout": "30s",  # and a nanny whose worker did not start again
}  # fmt: skip
if sys.version_info < (3, 11, 9):
    # Dask's profiler looks at the stacks of threads in a way that can freeze the process, see `_introspection/frames`.
    _OWN["distributed.worker.profile.enabled"] = False


links: set[_Ends] = set()  # each step is one call of C


class Link:
    """See above. `width`: how many tasks its own cluster runs at a time, if there is no `address`."""

    def __init__(self, address: str | None, width: int, workers: int, reconnect: float) -> None:
        self._lock = threading.Lock()
        self._reconnect = reconnect
        self._topic = PREFIX + uuid.uuid4().hex
        self._attempts: dict[str, _Attempt] = {}  # by key, while they are waited for; each step is one call of C
        self._ends = ends = _Ends()
        self._failed: ClusterLost | None = None  # guarded by _lock, as is the next
        self._client: Any = None
        self._comm: Any = None  # of that client: it makes another, which nobody hears, when it connects again
        weakref.finalize(self, ends.close_soon).atexit = False
        outside = _shield.context_outside()
        if address is None:
            ends.cluster, ends.workers = outside.run(_own_cluster, width, workers), workers
            address = ends.cluster.scheduler_address
        self.address: str = address
        try:
            self._take(outside.run(self._connect))
        except OSError as exc:
            self.close()
            raise ClusterLost(address, f"could not be reached: {exc}") from exc
        except Exception as exc:
            self.close()
            problem = "cannot be used: all its machines need threadsafe-timeout[cluster], in the version that is here"
            raise ClusterLost(address, f"{problem} ({type(exc).__name__}: {exc})") from exc
        look = functools.partial(_look_after, ends, self._attempts, address)  # not `self`, which may be let go of
        DaemonThread(look, "threadsafe-timeout-cluster").start()

    def slots(self) -> int:
        """How many tasks the cluster runs at a time."""
        client = self._client
        return sum(client.nthreads().values()) if client is not None else 0

    def is_lost(self) -> bool:
        """Whether it has been given up: there is no use in it any more."""
        return self._failed is not None

    def run(self, about: bytes, timeout: Callable[[], float], grace: float, began: Callable[[str], object]) -> bytes:
        """Send a task and wait for its answer, under the scopes around. `timeout()`: the seconds that it may run."""
        losses = 0
        while True:
            attempt = _Attempt(self._connected(), self._topic, (about, timeout(), grace), began)
            self._attempts[attempt.key] = attempt
            try:
                attempt.start()
                attempt.wait(grace)
            finally:
                self._attempts.pop(attempt.key, None)
            if attempt.answer:
                return attempt.answer
            problem = attempt.problem
            if problem is not None and not isinstance(problem, (CancelledError, KilledWorker, OSError)):
                raise problem
            if self._is_in_force(attempt.client):
                losses += 1
                Waiter().pause(min(losses * _FIRST_PAUSE, _LONGEST_PAUSE))
            if losses > _LOSSES:
                raise ClusterLost(self.address, f"lost this task {losses} times") from problem

    # The client

    def _connect(self) -> Any:
        _probe(self.address)
        client = _dask.Client(self._ends.cluster or self.address, timeout=_ANSWER, set_as_default=False)
        try:
            client.subscribe_topic(self._topic, functools.partial(_hear, self._attempts))
            client.register_plugin(Letting())
        except BaseException:
            _close_client(client)
            raise
        return client

    def _connected(self) -> Any:
        """The client, waited for while it is made anew."""
        waiter = Waiter()
        with waiter.listening():
            while True:
                client, failed = self._client, self._failed
                if failed is not None:  # one for each task: who raises it puts its own traceback there
                    raise ClusterLost(failed.address, failed.problem) from failed.__cause__
                if client is not None and self._is_in_force(client):
                    return client
                _around.raise_if_cancelled()
                waiter.wait_for(_FIRST_PAUSE)

    def _take(self, client: Any) -> None:
        self._client, self._comm = client, client.scheduler_comm
        self._ends.client = client

    def _is_in_force(self, client: Any) -> bool:
        """Whether it has been connected all the time. If not, have another one made, once."""
        with self._lock:
            if self._client is not client or self._ends.closing.is_set():
                return False
            if client.status == "running" and client.scheduler_comm is self._comm and not self._comm.closed():
                return True
            self._client = None
        logger.warning(
            "threadsafe-timeout: the scheduler of the Dask cluster at %s was lost; its tasks are sent again when it is "
            "back, within %g s", shown(self.address), self._reconnect, extra={"event": "cluster"},
        )  # fmt: skip
        DaemonThread(lambda: self._renew(client), "threadsafe-timeout-cluster").start()
        return False

    def _renew(self, old: Any) -> None:
        _close_client(old)
        until, pause = _clock.monotonic() + self._reconnect, _FIRST_PAUSE
        while not self._ends.closing.is_set():
            try:
                client = self._connect()
            except Exception as exc:
                if _clock.monotonic() > until:
                    with self._lock:
                        self._failed = ClusterLost(self.address, f"was lost, and not back within {self._reconnect:g} s")
                        self._failed.__cause__ = exc
                    return
                self._ends.closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            with self._lock:
                self._take(client)
            if self._ends.closing.is_set():
                _close_client(client)
            logger.warning(
                "threadsafe-timeout: the Dask cluster at %s is back", shown(self.address), extra={"event": "cluster"}
            )
            return

    def close(self) -> None:
        """Leave the cluster; end it, if it is its own. What still runs there ends."""
        with self._lock:
            self._failed = self._failed or ClusterLost(self.address, "was left: the pool is shut down")
            self._client = None
        self._ends.close()


def _hear(attempts: Mapping[str, _Attempt], event: tuple[float, dict[str, str]]) -> None:
    """In the client's loop: a task has begun."""
    attempt = attempts.get(event[1]["key"])
    if attempt is not None:
        attempt.began(event[1]["worker"])


class _Ends:
    """What is to be ended with a link, also if nobody refers to that any more."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.client: Any = None
        self.cluster: Any = None
        self.workers = 0  # that this one is to have
        links.add(self)

    def close(self) -> None:
        self.closing.set()
        client, self.client = self.client, None
        cluster, self.cluster = self.cluster, None
        if client is not None:
            _close_client(client)
        if cluster is not None:
            with contextlib.suppress(Exception):
                cluster.close(timeout=_CONNECT)
        links.discard(self)

    def close_soon(self) -> None:
        """In another thread: a finaliser must not wait."""
        with contextlib.suppress(RuntimeError):
            DaemonThread(self.close, "threadsafe-timeout-cluster").start()


def _look_after(ends: _Ends, attempts: Mapping[str, _Attempt], address: str) -> None:
    """Until the link is closed: start the workers that a cluster of its own lacks (Dask gives up a nanny whose worker
    dies as it starts); and say so if tasks wait for a cluster that has none."""
    without = 0.0
    while not ends.closing.wait(_LOOK):
        with contextlib.suppress(Exception):  # the cluster is lost, or closed just now
            if ends.cluster is not None:
                ends.cluster.scale(ends.workers)
            if not attempts or ends.client is None or ends.client.nthreads():
                without = 0.0
                continue
            without += _LOOK
            if without - _LOOK < _PATIENCE <= without:
                logger.warning(
                    "threadsafe-timeout: the Dask cluster at %s has no workers; %d tasks wait for one", shown(address),
                    len(attempts), extra={"event": "cluster"},
                )  # fmt: skip


def _close_all() -> None:
    """At the end of the program."""
    for ends in [*links]:
        ends.close()


class _Attempt(Waiter):
    """One task, sent once."""

    def __init__(
        self, client: Any, topic: str, what: tuple[bytes, float, float], began: Callable[[str], object]
    ) -> None:
        super().__init__()
        self.client = client
        self.key = PREFIX + uuid.uuid4().hex
        self.began = began
        self.answer: bytes | None = None  # these two are written by the thread of the client's loop
        self.problem: Exception | None = None
        self._what = (self.key, topic, *what)
        self._over = self._given_up = False
        self._task: asyncio.Task[Any] | None = None  # it and the next are used in that thread only
        self._future: Any = None

    def start(self) -> None:
        self.client.loop.add_callback(self._follow)

    async def _follow(self) -> None:
        try:
            if self._given_up:
                return
            self._task = asyncio.current_task()
            self._future = future = self.client.submit(run_there, *self._what, key=self.key, pure=False)
            try:
                self.answer = await future
            finally:
                future.release()
        except asyncio.CancelledError:
            pass
        except Exception as exc:
            self.problem = exc
        finally:
            self._over = True
            self._task = None
            self.wake()

    def wait(self, grace: float) -> None:
        """Until there is an answer or a problem. Once the task is cancelled, its future is let go of, which ends it;
        at its deadline a grace later, in which the node ends it, and says where it was."""
        try:
            with self.listening():
                while not (self._over or self._is_lost() or _around.cancel_pending()):
                    self.wait_for(_LOOK)
            if not self._over and _around.cancel_pending():
                self._await_last_word(grace)
        finally:
            if not self._over:
                self.client.loop.add_callback(self._give_up)
        if self.answer is None:
            _around.raise_if_cancelled()

    def _await_last_word(self, grace: float) -> None:
        scope = _around.current_scope()
        if scope is None or scope.reason != "deadline":
            return
        until = _clock.monotonic() + grace
        while not self._over and (left := until - _clock.monotonic()) > 0:
            self.wait_for(min(left, _LOOK))

    def _is_lost(self) -> bool:
        return self.client.status not in ("running", "connecting")

    def _give_up(self) -> None:
        self._given_up = True
        if self._future is None or self._task is None:
            return
        # Not while its answer is fetched: the client fetches those of several at once, and none ever again if that is
        # cancelled.
        if self._future.status == "pending":
            self._task.cancel()
        else:
            self._future.release()


def _own_cluster(width: int, workers: int) -> Any:
    with dask.config.set(_OWN):
        return _dask.LocalCluster(
            n_workers=workers, threads_per_worker=-(-width // workers), host="127.0.0.1", memory_limit=0,
            silence_logs=logging.CRITICAL,  # it says much about tasks that are killed, and workers that end with them
            # Without dashboards; the scheduler's own page listens all the same, here.
            dashboard_address=None, worker_dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        )  # fmt: skip


def _probe(address: str) -> None:
    """Raises OSError if nobody listens there: a client that cannot connect would leave its thread behind."""
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.rpartition(":")
    if scheme in ("", "tcp", "tls"):
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()


def _close_client(client: Any) -> None:
    with contextlib.suppress(Exception):
        client.close(timeout=_CONNECT)


_exit.afterwards.append(_close_all)
