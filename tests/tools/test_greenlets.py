"""gevent and eventlet: imported, they do no harm; monkey-patching, before or after the line, they have the process to
themselves, and one line says so."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from programs import run

pytestmark = pytest.mark.timeout(330)  # three processes at most; see `programs.SECONDS`

WARNING = "nothing is patched, and no call has a deadline: {} replaces the threads and sockets of this process"
TOOLS = ("gevent", "eventlet")
MONKEY = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
ORDERS = {
    "monkey patching, then the line": "{monkey}\nimport threadsafe_timeout.auto",
    "the line, then monkey patching": "import threadsafe_timeout.auto\n{monkey}",
    "the line, the tool, then monkey patching": "import threadsafe_timeout.auto, {tool}\n{monkey}",
    "the tool, the line, then monkey patching": "import {tool}, threadsafe_timeout.auto\n{monkey}",
    "both, then monkey patching, from an own name": {
        "gevent": "from gevent.monkey import patch_all\nimport threadsafe_timeout.auto\npatch_all()",
        "eventlet": "from eventlet import monkey_patch\nimport threadsafe_timeout.auto\nmonkey_patch()",
    },
    "monkey patching, then the line, twice": "{monkey}\nimport threadsafe_timeout.auto\nthreadsafe_timeout.install(grace=3)",
    "sockets only, then the line": {
        "gevent": "from gevent import monkey; monkey.patch_socket()\nimport threadsafe_timeout.auto",
        "eventlet": "import eventlet; eventlet.monkey_patch(socket=True)\nimport threadsafe_timeout.auto",
    },
    "the line, then sockets only": {
        "gevent": "import threadsafe_timeout.auto\nfrom gevent import monkey; monkey.patch_socket()",
        "eventlet": "import threadsafe_timeout.auto\nimport eventlet; eventlet.monkey_patch(socket=True)",
    },
}

WORK = """
    import faulthandler; faulthandler.enable()
    import concurrent.futures, queue, select, socket, subprocess, threading, time
    def work(x):
        time.sleep(0.01)
        return x * 2
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(9))) == [2 * x for x in range(9)]
    threads = [threading.Thread(target=work, args=(x,)) for x in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    channel = queue.Queue()
    threading.Thread(target=channel.put, args=(5,)).start()
    assert channel.get(timeout=120) == 5
    channel = queue.SimpleQueue()
    threading.Thread(target=channel.put, args=(5,)).start()
    assert channel.get(timeout=120) == 5
    assert subprocess.run(["true"]).returncode == 0
    a, b = socket.socketpair()
    a.sendall(b"x")
    assert select.select([b], [], [], 30)[0] == [b] and b.recv(1) == b"x"
    event = threading.Event()
    threading.Timer(0.01, event.set).start()
    assert event.wait(120)
    """
OWN = {
    "gevent": """
        import gevent, gevent.queue, gevent.event
        gevent.sleep(); gevent.sleep(0); gevent.sleep(seconds=0); gevent.sleep(0, ref=True)
        import gevent.select, gevent.subprocess
        assert gevent.select.select([], [], [], timeout=0) == ([], [], [])
        assert gevent.subprocess.run(["true"]).returncode == 0
        assert [job.value for job in gevent.joinall([gevent.spawn(lambda x: (gevent.sleep(0.01), x)[1], x) for x in range(5)])] == list(range(5))
        assert gevent.get_hub().threadpool.spawn(lambda: 7).get(timeout=120) == 7
        """,
    "eventlet": """
        import eventlet, eventlet.tpool, eventlet.queue
        eventlet.sleep(); eventlet.sleep(seconds=0)
        assert list(eventlet.GreenPool().imap(lambda x: (eventlet.sleep(0.01), x)[1], range(5))) == list(range(5))
        assert eventlet.tpool.execute(lambda: 7) == 7
        from eventlet.green import socket as green, time as green_time
        green_time.sleep(0.01)
        """,
}
END = """
    print("ended", flush=True)
    """


def checked(*parts: str, cwd: Path) -> str:
    done = run("\n".join(map(dedent, parts)), cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ended\n"), done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tool", TOOLS)
def test_who_monkey_patches_has_the_process_to_himself(tool: str, order: str, tmp_path: Path) -> None:
    line = ORDERS[order]
    line = line[tool] if isinstance(line, dict) else line.format(tool=tool, monkey=MONKEY[tool])
    said = checked(
        line, WORK, OWN[tool],
        f"""
        from threadsafe_timeout import doctor
        from threadsafe_timeout._patching import install as _install
        assert _install.installed() is None
        assert doctor.examine()["why_not"].startswith("{tool} replaces")
        assert "{tool} replaces" in doctor.report()
        for module in (time, threading, socket, queue, select, subprocess, concurrent.futures.thread):
            for name, value in vars(module).items():
                assert not str(getattr(value, "__module__", "")).startswith("threadsafe_timeout"), (module, name)
        """,
        END, cwd=tmp_path,
    )  # fmt: skip
    times = 2 if order.endswith("twice") else 1
    assert said.count(WARNING.format(tool)) == times, said
    assert "could not be" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("first", ["the tool", "the line"])
@pytest.mark.parametrize("tool", TOOLS)
def test_imported_it_works_and_so_do_deadlines(tool: str, first: str, tmp_path: Path) -> None:
    lines = [f"import {tool}", "import threadsafe_timeout.auto"]
    said = checked(
        *(lines if first == "the tool" else reversed(lines)), WORK, OWN[tool],
        """
        import threadsafe_timeout as t
        a, b = socket.socketpair()
        for call in (lambda: time.sleep(3600), lambda: threading.Event().wait(3600), lambda: queue.SimpleQueue().get(timeout=3600),
                     lambda: a.recv(1), lambda: subprocess.run(["sleep", "3600"]), lambda: select.select([a], [], [], 3600)):
            with t.move_on_after(0.05) as scope:
                call()
            assert scope.cancelled_caught
        with t.ThreadPoolExecutor(2, task_timeout=0.05) as pool:
            try:
                pool.submit(time.sleep, 3600).result()
            except t.DeadlineExceeded:
                pass
            else:
                raise AssertionError
        """,
        OWN[tool], END, cwd=tmp_path,
    )  # fmt: skip
    assert "threadsafe-timeout" not in said.replace("threadsafe-timeout: task", ""), said


@pytest.mark.parametrize("first", ["monkey patching", "the library"])
@pytest.mark.parametrize("tool", TOOLS)
def test_used_directly_beside_greenlets_it_refuses_or_says_so_and_does_not_hang(tool: str, first: str, tmp_path: Path) -> None:
    lines = [MONKEY[tool], "import threadsafe_timeout as t; t.deadline, t.ThreadPoolExecutor"]
    said = checked(
        *(lines if first == "monkey patching" else reversed(lines)),
        f"""
        import faulthandler; faulthandler.enable()
        import time
        try:
            t.ThreadPoolExecutor(1)
        except RuntimeError as exc:
            assert "{tool} has replaced them by greenlets" in str(exc)
        else:
            raise AssertionError
        with t.deadline(3600):
            time.sleep(0.01)
        try:
            with t.deadline(0.01):
                time.sleep(0.05)
                t.check_cancelled()
        except t.DeadlineExceeded:
            pass
        else:
            raise AssertionError
        """,
        END, cwd=tmp_path,
    )  # fmt: skip
    assert said.count(f"could not be started ({tool} has replaced threads by greenlets)") == 1, said


@pytest.mark.parametrize("tool", TOOLS)
def test_a_program_of_greenlets_ends_as_without_the_line(tool: str, tmp_path: Path) -> None:
    """Unfinished greenlets, threads that wait, and what is registered for the end."""
    program = """
        import atexit, threading, time
        atexit.register(print, "at exit", flush=True)
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        def last():
            time.sleep(0.05)
            print("last", flush=True)
        threading.Thread(target=last).start()
        """
    monkey, line = MONKEY[tool], "import threadsafe_timeout.auto"
    ends = {}
    for order in ([monkey], [line, monkey], [monkey, line]):
        done = run("\n".join([*order, dedent(program)]), tmp_path)
        ends[tuple(order)] = done.returncode, done.stdout
        assert "at exit" in done.stdout, done.stderr
    assert len(set(ends.values())) == 1, ends
