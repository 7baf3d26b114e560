"""Tasks that start processes by `multiprocessing` and executors; process_scripts.py runs them."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import time

from process_notes import forever, never, note, stuck

FOLDER = os.environ.get("FOLDER", "")  # in which each worker says that it is there


# Tasks that are over at once when they are cancelled, and what they leave


def says_and_sleeps(said, ignore=False):
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    said.send(os.getpid())
    time.sleep(300)


def process(method: str, **options: object):
    context = multiprocessing.get_context(method)
    mine, theirs = context.Pipe()
    child = context.Process(target=says_and_sleeps, args=(theirs, options.pop("ignore", False)), **options)
    child.start()
    note(mine.recv())
    return child


def joins(method, **options):
    child = process(method, **options)
    stuck.set()
    child.join()


def joins_spawned():
    joins("spawn")


def joins_forked():
    joins("fork")


def joins_one_of_the_fork_server():
    joins("forkserver")


def joins_one_that_ignores_sigterm():
    joins("spawn", ignore=True)


def joins_a_daemonic_one():
    joins("spawn", ignore=True, daemon=True)


def gets_from_a_queue():
    process("spawn")
    items = multiprocessing.get_context("spawn").Queue()
    stuck.set()
    items.get()


def receives():
    process("fork")
    mine, _theirs = multiprocessing.Pipe()
    stuck.set()
    mine.recv()


def puts_what_nobody_reads():
    child = process("spawn")
    items = multiprocessing.get_context("spawn").Queue()
    items.put(b"x" * 1_000_000)
    stuck.set()
    child.join()


def puts_more_than_is_read(items, said):
    said.send(os.getpid())
    items.put(b"x" * 1_000_000)


def joins_before_it_gets():
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    items = context.Queue()
    child = context.Process(target=puts_more_than_is_read, args=(items, theirs))
    child.start()
    note(mine.recv())
    stuck.set()
    child.join()


def waits_in_a_worker(folder):
    with open(os.path.join(folder, str(os.getpid())), "w"):
        pass
    time.sleep(300)


def note_workers(number):
    """Wait until so many workers have said where they are."""
    while len(names := os.listdir(FOLDER)) < number:
        time.sleep(0.01)
    for name in names:
        note(int(name), name)
    stuck.set()


def executor_in_a_block():
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        futures = [executor.submit(waits_in_a_worker, FOLDER) for _ in range(2)]
        note_workers(2)
        futures[0].result()


def executor_that_is_let_go_of():
    executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    future = executor.submit(waits_in_a_worker, FOLDER)
    note_workers(1)
    future.result()


def executor_that_stays():
    global executor
    executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    future = executor.submit(waits_in_a_worker, FOLDER)
    note_workers(1)
    future.result()


def pool_in_a_block():
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        result = workers.map_async(waits_in_a_worker, [FOLDER, FOLDER], chunksize=1)
        note_workers(2)
        result.get()


def pool_that_stays():
    global workers
    workers = multiprocessing.get_context("spawn").Pool(2)
    result = workers.map_async(waits_in_a_worker, [FOLDER, FOLDER], chunksize=1)
    note_workers(2)
    result.get()


def manager_that_stays():
    global manager
    manager = multiprocessing.get_context("spawn").Manager()
    note(manager._process.pid)
    items = manager.Queue()
    stuck.set()
    items.get()


OVER_AT_ONCE = [
    joins_spawned, joins_forked, joins_one_of_the_fork_server, joins_one_that_ignores_sigterm, joins_a_daemonic_one,
    gets_from_a_queue, receives, puts_what_nobody_reads, joins_before_it_gets, executor_in_a_block,
    executor_that_is_let_go_of, executor_that_stays, pool_in_a_block, pool_that_stays, manager_that_stays,
]  # fmt: skip


# The same, for tasks that are abandoned


def pool_of_an_abandoned_task():
    global workers
    workers = multiprocessing.get_context("spawn").Pool(2)
    workers.map_async(waits_in_a_worker, [FOLDER], chunksize=1)
    note_workers(1)
    for worker in workers._pool:
        note(worker.pid, str(worker.pid))
    never.acquire()


def executor_of_an_abandoned_task():
    global executor
    executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    executor.submit(waits_in_a_worker, FOLDER)
    note_workers(1)
    never.acquire()


def process_of_an_abandoned_task():
    process("spawn")
    forever()


GIVEN_UP_WITH_WORKERS = [pool_of_an_abandoned_task, executor_of_an_abandoned_task, process_of_an_abandoned_task]
