"""A task of `map` and its like meets its deadline first as an error that its own handlers can catch."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import queue
import subprocess
import sys
import threading
import time

import joblib
import pytest
import requests
from blocked import LONG, expire
from busy import loop, switched_off
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from threadsafe_timeout import Cancelled, DeadlineExceeded, check_cancelled, deadline, move_on_after, patched
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout.testing.fake_llm import FakeLLM

ITEMS = 6
STUCK = 2  # the item that gets stuck


def in_a_child():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=False)


WAYS = {
    "sleep": lambda: time.sleep(LONG),
    "queue": lambda: queue.Queue().get(),
    "event": lambda: threading.Event().wait(),
    "child": in_a_child,
    "busy": loop,
}


def recorded(way):
    """A function as people write them: whatever goes wrong becomes a record."""

    def work(item):
        try:
            if item == STUCK:
                expire()
                way()
            return item
        except Exception as exc:
            return type(exc).__name__

    return work


EXPECTED = [0, 1, "DeadlineExceeded", 3, 4, 5]


@pytest.fixture(autouse=True)
def line():
    # What does not expire by itself has all the time there is: a busy machine may need some.
    with patched(checkpoint="off", task_timeout=LONG, grace=LONG):
        yield


@pytest.mark.parametrize("way", WAYS)
def test_one_timeout_does_not_lose_the_other_results(way):
    import concurrent.futures as cf

    with cf.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(recorded(WAYS[way]), range(ITEMS))) == EXPECTED


def test_through_every_function_that_maps(monkeypatch):
    import concurrent.futures as cf
    import multiprocessing.pool as mp

    work = recorded(WAYS["sleep"])
    with mp.ThreadPool(3) as pool:
        assert pool.map(work, range(ITEMS)) == EXPECTED
        assert pool.map(work, range(ITEMS), chunksize=2) == EXPECTED
        assert list(pool.imap(work, range(ITEMS))) == EXPECTED
        assert set(pool.imap_unordered(work, range(ITEMS))) == set(EXPECTED)
        assert pool.starmap(work, [(item,) for item in range(ITEMS)]) == EXPECTED
        assert pool.map_async(work, range(ITEMS)).get() == EXPECTED
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # else it starts a thread that never ends
    assert thread_map(work, range(ITEMS), max_workers=3, disable=True) == EXPECTED
    parallel = joblib.Parallel(n_jobs=3, backend="threading")
    assert parallel(joblib.delayed(work)(item) for item in range(ITEMS)) == EXPECTED

    class Subclass(cf.ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            return super().submit(fn, *args, **kwargs)

    with Subclass(3) as pool:
        assert list(pool.map(work, range(ITEMS))) == EXPECTED


def test_a_function_that_does_not_catch_it_raises_it_as_before():
    import concurrent.futures as cf

    with cf.ThreadPoolExecutor(3) as pool:
        with pytest.raises(DeadlineExceeded) as caught:
            list(pool.map(lambda item: item == STUCK and (expire(), time.sleep(LONG)), range(ITEMS)))
        copy = pickle.loads(pickle.dumps(caught.value))
        assert str(copy) == str(caught.value)
        assert copy.scope is None


@pytest.mark.parametrize("way", WAYS)
def test_it_is_not_interrupted_too(way):
    """A thread that is woken, and a moment later is still in its task, has met its deadline all the same."""
    import concurrent.futures as cf

    def work(item):
        said = recorded(WAYS[way])(item)
        if item == STUCK:
            until = time.perf_counter() + 0.1
            while time.perf_counter() < until:
                pass
        return said

    with cf.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(ITEMS))) == EXPECTED


def test_it_is_caught_once():
    """A loop that goes on after it meets `Cancelled`, and has no result."""
    import concurrent.futures as cf

    met = []

    def retries(item):
        for turn in range(5):
            try:
                if turn == 0:
                    expire()
                time.sleep(LONG)
            except Exception as exc:
                met.append(exc)
        return "gave up"

    with cf.ThreadPoolExecutor(1) as pool, pytest.raises(DeadlineExceeded):
        list(pool.map(retries, [1]))
    assert [type(exc) for exc in met] == [DeadlineExceeded]


def test_its_handler_may_clean_up():
    import concurrent.futures as cf

    def work(item):
        try:
            expire()
            time.sleep(LONG)
        except TimeoutError:
            time.sleep(0)
            return subprocess.run([sys.executable, "-c", "print('cleaned')"], capture_output=True, check=True).stdout
        return b""

    with cf.ThreadPoolExecutor(1) as pool:
        assert list(pool.map(work, [1])) == [b"cleaned" + b"\n"]


def test_submit_is_as_it_was_unless_told_otherwise():
    import concurrent.futures as cf

    with cf.ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(recorded(WAYS["sleep"]), STUCK).exception(), DeadlineExceeded)
    with patched(checkpoint="off", task_timeout=LONG, grace=LONG, catchable_timeout="all"):
        with cf.ThreadPoolExecutor(1) as pool:
            assert pool.submit(recorded(WAYS["sleep"]), STUCK).result() == "DeadlineExceeded"
    with patched(checkpoint="off", task_timeout=LONG, grace=LONG, catchable_timeout="off"):
        with cf.ThreadPoolExecutor(1) as pool, pytest.raises(DeadlineExceeded):
            list(pool.map(recorded(WAYS["sleep"]), [STUCK]))


def test_what_cancels_it_otherwise_is_not_caught():
    import concurrent.futures as cf

    begun, met = threading.Event(), []

    def work():
        try:
            begun.set()
            time.sleep(LONG)
        except BaseException as exc:
            met.append(exc)
            raise

    with patched(checkpoint="off", catchable_timeout="all"), cf.ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        begun.wait()
        future.cancel()
        assert isinstance(future.exception(), DeadlineExceeded)
    assert [type(exc) for exc in met] == [Cancelled]


def test_a_client_that_retries_does_not_eat_it():
    """It comes out of the client's call, however often that would try again what times out."""
    import concurrent.futures as cf

    import openai

    with (
        FakeLLM({"hang": 1}) as server,
        openai.OpenAI(api_key="none", base_url=server.base_url, max_retries=5) as client,
    ):
        messages = [{"role": "user", "content": "hi"}]
        session = requests.Session()
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=5))

        def ask(item):
            if item == 0:
                client.chat.completions.create(model="m", messages=messages)
            else:
                session.post(server.base_url + "/chat/completions", json={"model": "m", "messages": messages})

        def work(item):
            try:
                expire(0.1)
                ask(item)
            except Exception as exc:
                return isinstance(exc, (DeadlineExceeded, requests.RequestException))

        with cf.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(work, [0, 1])) == [True, True]
        session.close()
        assert len(server.requests()) <= 2  # a slow machine may not get as far as to send one


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # os.walk's
def test_a_library_that_passes_over_errors_gives_no_partial_result(tmp_path):
    """`os.walk` goes on after an OSError, which a TimeoutError is."""
    import concurrent.futures as cf

    for name in range(8):
        (tmp_path / str(name) / "x").mkdir(parents=True)
    full = sum(len(folders) for _, folders, _ in os.walk(tmp_path))

    def count(item):
        try:
            expire(0.1)
            while True:
                found = sum(len(folders) for _, folders, _ in os.walk(tmp_path))
                if found != full:
                    return found
        except Exception:
            return "record"

    with cf.ThreadPoolExecutor(4) as pool:
        results = []
        for future in [pool.submit(count, item) for item in range(4)]:
            future.make_catchable()
            try:
                results.append(future.result())
            except DeadlineExceeded:
                results.append("timeout")
    assert set(results) <= {"record", "timeout"}
    # The frames of os.walk, whose scandir warns when it is collected, go here, and not in a later test: the timer's
    # thread may have held one a moment longer.
    del future
    assert switched_off()
    assert _timer.settle(120)
    gc.collect()


def test_a_cancellation_in_a_task_group_stays_in_its_scope():
    async def child():
        while True:
            check_cancelled()
            await asyncio.sleep(0)

    async def main(scope):
        async with scope, asyncio.TaskGroup() as group:
            group.create_task(child())

    with pytest.raises(DeadlineExceeded):
        asyncio.run(main(deadline(0.05)))
    asyncio.run(main(move_on_after(0.05)))
    with move_on_after(5) as scope, pytest.raises(ExceptionGroup) as caught:
        with move_on_after(5) as inner:
            inner.cancel()
            try:
                check_cancelled()
            except BaseException as exc:
                raise BaseExceptionGroup("both", [exc, ValueError("its own")]) from None
    assert [type(exc) for exc in caught.value.exceptions] == [ValueError]
    assert inner.cancelled_caught
    assert not scope.cancelled_caught
