"""Errors name the function that the program meant, not what it is wrapped in."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
import types

import joblib
import pytest
import wrapt

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor, deadline, patched
from threadsafe_timeout._introspection.names import name_of


def work(*_args, **_kwargs):
    threading.Event().wait(600)


class Runner:
    def work(self, *_):
        work()

    @classmethod
    def of_class(cls, *_):
        work()

    @staticmethod
    def static(*_):
        work()

    def __call__(self, *_):
        work()


class Retrying:
    """A wrapper of the program's own."""

    def __init__(self, func):
        self.func = func

    def __call__(self, *args):
        return self.func(*args)


@functools.wraps(work)
def wrapping(*args):
    return work(*args)


@wrapt.decorator
def decorated(wrapped, _instance, args, kwargs):
    return wrapped(*args, **kwargs)


anonymous = lambda *_: work()  # noqa: E731  # the point
LINE = anonymous.__code__.co_firstlineno


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (work, (), "work"),
        (Runner().work, (), "Runner.work"),
        (Runner.of_class, (), "Runner.of_class"),
        (Runner.static, (), "Runner.static"),
        (Runner(), (), "Runner"),
        (Retrying(work), (), "Retrying(work)"),
        (Retrying(functools.partial(Runner().work, 1)), (), "Retrying(Runner.work)"),
        (wrapping, (), "work"),
        (functools.lru_cache(work), (), "work"),
        (decorated(work), (), "work"),
        (functools.partial(work, 1), (), "work"),
        (functools.partial(functools.partial(Runner().work), 1), (2,), "Runner.work"),
        (contextvars.copy_context().run, (work, 1), "work"),
        (functools.partial(contextvars.copy_context().run, work), (1,), "work"),
        (functools.partial(contextvars.copy_context().run), (functools.partial(work),), "work"),
        (functools.partial(contextvars.copy_context().run, contextvars.copy_context().run), (work,), "work"),
        (contextvars.copy_context().run, (), "Context.run"),
        (anonymous, (), f"lambda at test_names.py:{LINE}"),
        (functools.partial(anonymous), (), f"lambda at test_names.py:{LINE}"),
        (time.monotonic, (), "monotonic"),
        ([].append, (), "list.append"),
        (dict, (), "dict"),
    ],
)
def test_name_of(function, args, name):
    assert name_of(function, args) == name


def test_a_strange_object_is_named_by_its_class():
    class Strange:
        def __getattribute__(self, name):
            raise RuntimeError("outside of the request")

        def __call__(self):
            raise AssertionError("it is not to be called")

    names = [name_of(Strange()), name_of(functools.partial(Strange()))]
    assert names == ["Strange", "Strange"]


def test_a_librarys_closure_is_looked_through():
    """What LangChain does: a nested function of a library, submitted in a copied context."""
    library = types.ModuleType("some_library")
    source = "def wrapper(fn):\n    def _wrapped_fn(*args):\n        return fn(*args)\n    return _wrapped_fn\n"
    exec(compile(source, "/usr/lib/python3/site-packages/some_library.py", "exec"), vars(library))
    submitted = functools.partial(contextvars.copy_context().run, library.wrapper(Runner().work), 1)
    assert name_of(submitted) == "Runner.work"
    mine: dict = {}
    exec(source, mine)
    assert name_of(mine["wrapper"](work)) == "wrapper.<locals>._wrapped_fn", "the program's own is what was meant"


def failing(call):
    with patched(task_timeout=0.05, grace=60), pytest.raises(DeadlineExceeded) as caught:
        call()
    return caught.value


async def in_a_thread():
    await asyncio.to_thread(work, 1)


async def in_an_executor():
    await asyncio.get_running_loop().run_in_executor(None, functools.partial(work, item=1))


def with_joblib():
    joblib.Parallel(2, backend="threading")(joblib.delayed(work)(item) for item in range(2))


def in_a_pool():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        list(pool.map(functools.partial(work, 1), range(2)))


def in_a_thread_pool(call):
    def run():
        from multiprocessing.pool import ThreadPool

        with ThreadPool(2) as pool:
            call(pool)

    return run


@pytest.mark.parametrize(
    "call",
    [
        lambda: asyncio.run(in_a_thread()),
        lambda: asyncio.run(in_an_executor()),
        with_joblib,
        in_a_pool,
        in_a_thread_pool(lambda pool: pool.map(work, range(5))),
        in_a_thread_pool(lambda pool: pool.starmap(functools.partial(work), [(1, 2)] * 5)),
        in_a_thread_pool(lambda pool: pool.apply(work, (1,))),
        in_a_thread_pool(lambda pool: list(pool.imap(work, range(5), chunksize=2))),
    ],
)
def test_the_error_names_the_function(call):
    error = failing(call)
    assert error.name.startswith(("work(", "work #"))
    assert str(error).startswith(f"{error.name} timed out")


def test_a_chunk_of_the_stock_pool_is_named_by_its_function():
    with patched(patches=("multiprocessing_pool",)):
        from multiprocessing.pool import ThreadPool

        names = []
        with ThreadPool(1) as pool:
            gate = threading.Event()
            pool.map_async(lambda _: gate.wait(120), range(4), chunksize=2)
            executor = pool._inqueue._executor
            while not names:
                names = [one.task for one in executor.health().workers if one.task]
            gate.set()
    assert names[0].startswith("lambda at test_names.py:")


def test_decorators_and_timers_use_the_same_names():
    limited = deadline(0.05)(functools.partial(work, 1))
    with pytest.raises(DeadlineExceeded, match=r"^work timed out"), patched():
        limited()

    def generator():
        yield

    with pytest.raises(TypeError, match=r"generator function test_decorators.*generator: its body"):
        deadline(1)(functools.partial(generator))


def test_a_name_that_was_given_is_kept():
    gate = threading.Event()
    with ThreadPoolExecutor(1, grace=0.02) as pool:
        future = pool.with_options(timeout=0.05, name="question 7").submit(functools.partial(gate.wait, 10))
        with pytest.raises(DeadlineExceeded, match=r"^question 7 timed out"):
            future.result(120)
        gate.set()
