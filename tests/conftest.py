"""What every test gets: a check that it left no thread behind and none that is still to be interrupted, no scope around the
main thread, and the patches and settings as they were."""

from __future__ import annotations

import copyreg
import os
import signal
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from busy import switched_off
from conditions import join_listed

import threadsafe_timeout
from threadsafe_timeout import _settings
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout._scopes import around as _around

# Every HTTP client, here and in the processes that tests start, reads the certificates it trusts: one instead of all
# those of the system, which take it a twentieth of a second.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("loopback_tls.pem"))

# Programs and tests that do not say otherwise leave no files of their run, here or in the folder of a test.
os.environ["THREADSAFE_TIMEOUT_STATUS_DIR"] = "off"

# A shell that starts the tests in the background has SIGINT ignored, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no finding: an example may take as long as it takes, and so may making one.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Started once per process and shared by design; never counted as a leak. By the beginnings of their names.
SHARED_THREADS = (
    "threadsafe-timeout-timer", "threadsafe-timeout-stalls", "litellm-logging",
    "Dask-Offload", "Profile", "QueueFeederThread", "AsyncProcess",  # distributed's, as long as there is a cluster
)  # fmt: skip


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(SHARED_THREADS)}


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread running. A thread that is on its way out gets a bounded wait."""
    before = _threads()
    yield
    leaked = _threads() - before
    for thread in leaked:
        join_listed(thread, 120)
    alive = [thread.name for thread in leaked if thread.is_alive()]
    assert not alive, f"the test left threads running: {alive}"
    assert switched_off(), f"the interrupt is still on after its scope was left: {_pursuit._targets}"


def _installed() -> tuple[set[str] | None, _settings.Settings]:
    patching = _install.installed()
    return (None if patching is None else set(patching.patches)), _settings.settings()


def _assert_unchanged(scope: object, installed: object) -> None:
    assert _around.current_scope() is scope, f"left around the main thread: {_around.current_scope()!r}"
    assert _installed() == installed, "the patches, or the settings, are not what they were"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that, with its fixtures, leaves a scope around the main thread, patches, or other settings."""
    before = _around.current_scope(), _installed()
    yield
    _assert_unchanged(*before)


@pytest.fixture(autouse=True)
def pickled_as_ever() -> None:
    """Dask, from its import on, has every exception of the process pickled with its traceback and its cause (tblib)."""
    for kind, reducer in [*copyreg.dispatch_table.items()]:
        if getattr(reducer, "func", reducer).__module__.startswith("tblib"):
            del copyreg.dispatch_table[kind]


@pytest.fixture
def watching() -> Iterator[None]:
    """What is noted while a run is recorded is noted."""
    from threadsafe_timeout._pool import observer
    from threadsafe_timeout._record.doing import Watching

    one = Watching()
    observer.attach(one)
    yield
    observer.detach(one)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """The same before the fixtures end, of which `installed` would install again what the test has uninstalled."""
    before = _around.current_scope(), _installed()
    result = yield
    _assert_unchanged(before[0], before[1] if "installed" in getattr(item, "fixturenames", ()) else _installed())
    return result


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What stuck tasks wait for; set at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting comes from the environment or from a pyproject.toml, and what the test installs is undone."""
    for name in list(os.environ):
        if name.startswith("THREADSAFE_TIMEOUT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    threadsafe_timeout.uninstall()


@pytest.fixture(scope="module")
def installed_for_the_module() -> Iterator[None]:
    with threadsafe_timeout.patched(checkpoint="off"):
        yield


@pytest.fixture
def installed(installed_for_the_module: None) -> Iterator[None]:
    """The patches are applied, with the settings as they are, and stay so for the module: that is what it costs. A test
    that installs other settings, or uninstalls, puts them back; if it fails, this does."""
    threadsafe_timeout.install(checkpoint="off")  # costs nothing if the test before left it installed
    yield
    threadsafe_timeout.install(checkpoint="off")
