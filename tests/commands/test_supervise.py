"""`run --supervise`, on real processes. A program counts its starts in the file `starts`.

Where no stall is to be seen, `--stall` is its 300 s, longer than a test may take. Where one is to be seen, a busy
machine may add others: the program stalls until its stacks are in the file `errors`, and restarts are many.
"""

import os
import signal
import subprocess
import sys

import pytest

from threadsafe_timeout._processes import tree
from threadsafe_timeout._supervision.board import Board
from threadsafe_timeout.cli import main

pytestmark = [
    pytest.mark.usefixtures("nothing_set"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and prctl"),
]
SUPERVISE = ("-m", "threadsafe_timeout", "run", "--supervise")
FIRST = "import os, sys, signal, threading\nopen('starts', 'a').write('x')\nfirst = os.path.getsize('starts') == 1\n"
WAITS = "print(os.getpid(), flush=True); threading.Event().wait()"
STALLS = ("--stall", "8", "--restarts", "1000")
GIL = "import re; re.match('(a+)+$', 'a' * 200 + 'b')"  # one call of C that holds the GIL
DEADLOCK = "lock = threading.Lock(); lock.acquire(); lock.acquire()"


def begin(tmp_path, code, *options):
    (tmp_path / "main.py").write_text(FIRST + code)
    with open(tmp_path / "errors", "ab") as errors:
        return subprocess.Popen(
            [sys.executable, *SUPERVISE, *options, "main.py", "a"],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip


def supervise(tmp_path, code, *options):
    """Until all that hold its standard output have ended, the program's own children too: status, output, errors."""
    with begin(tmp_path, code, *options) as process:
        try:
            output = process.communicate(timeout=280)[0]
        finally:
            process.kill()
    return process.returncode, output, (tmp_path / "errors").read_text()


def starts(tmp_path):
    return os.path.getsize(tmp_path / "starts")


def test_a_program_that_ends_by_itself_is_left_alone(tmp_path):
    done = supervise(tmp_path, "print(sys.argv, sys.stdin.read()); sys.exit(3)")
    assert (*done, starts(tmp_path)) == (3, "['main.py', 'a'] \n", "", 1)


@pytest.mark.stress
def test_one_that_fails_at_import_is_not_started_again(tmp_path):
    status, _, errors = supervise(tmp_path, "import nosuch_module")
    assert (status, starts(tmp_path)) == (1, 1)
    assert errors.endswith("No module named 'nosuch_module'\n")


@pytest.mark.stress
def test_one_that_crashes_at_import_is_started_again_so_often_and_no_more(tmp_path):
    (tmp_path / "broken.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    status, _, errors = supervise(tmp_path, "import broken", "--restarts", "2")
    assert (status, starts(tmp_path)) == (-signal.SIGSEGV, 3)
    assert errors.count("killed by SIGSEGV") == 3
    assert "again in 1 s (1 of 2 restarts)" in errors
    assert "again in 2 s (2 of 2 restarts)" in errors
    assert "not started again: it was restarted 2 times" in errors
    assert errors.endswith("summary: 3 starts; crashed 3; last exit status -11\n")


@pytest.mark.stress
@pytest.mark.parametrize(
    ("stalls", "told"),
    [
        (GIL, ""),
        (f"signal.signal(signal.SIGTERM, print); {GIL}", "it did not end 10 s after SIGTERM: SIGKILL"),
        (DEADLOCK, ""),
    ],
    ids=["GIL", "GIL, SIGTERM handled", "deadlock"],
)
def test_one_that_stalls_is_ended_with_its_stacks_and_started_again(stalls, told, tmp_path):
    code = f"def stalls():\n    {stalls}\n\nif 'in stalls' not in open('errors').read():\n    stalls()\nprint('finished')"
    status, output, errors = supervise(tmp_path, code, *STALLS)
    assert (status, output.endswith("finished\n")) == (0, True), errors
    assert starts(tmp_path) >= 2
    assert 'main.py", line 5 in stalls' in errors
    assert "no thread has moved for 8 s" in errors
    assert "starts; stalled " in errors
    assert told in errors


@pytest.mark.stress
def test_the_children_of_one_that_stalls_end_with_it(tmp_path):
    """Else the end of the output, which they hold, is not reached."""
    child = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('child', flush=True); open('ready', 'w').close(); signal.pause()"
    )
    code = f"import subprocess\nif not os.path.exists('ready'):\n    subprocess.Popen([sys.executable, '-c', {child!r}])\n    {DEADLOCK}"
    status, output, errors = supervise(tmp_path, code, *STALLS)
    assert (status, output.startswith("child\n")) == (0, True), errors


@pytest.mark.parametrize(
    "stands",
    [
        "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2**31 - 1)",  # it computes outside the GIL
        "import threading; sys._is_gil_enabled = lambda: False; threading.Event().wait()",  # nobody can tell
    ],
)
def test_one_that_may_move_counts_as_moving(stands):
    """The beats come while its one thread stands in one call."""
    code = f"import sys\nfrom threadsafe_timeout._startup import heartbeat\nheartbeat.start(sys.argv[1])\n{stands}"
    reading, writing = os.pipe()
    board = Board([])
    try:
        heart = f"{writing}:0.05:{os.getpid()}::{board.descriptor}:8"
        with subprocess.Popen([sys.executable, "-c", code, heart], pass_fds=[writing, board.descriptor]) as process:
            try:
                beats = [os.read(reading, 1) for _ in range(20)]
            finally:
                process.kill()
    finally:
        board.close()
        os.close(reading)
        os.close(writing)
    assert b"".join(beats) == b"." * 20


@pytest.mark.stress
def test_status_75_starts_it_again_at_once_and_restarts_are_bounded(tmp_path):
    status, _, errors = supervise(tmp_path, "sys.exit(75)", "--restarts", "1")
    assert (status, starts(tmp_path)) == (75, 2)
    assert "asked to be started again (exit status 75)" in errors
    assert "starting it again at once (1 of 1 restarts)" in errors
    assert "not started again: it was restarted 1 times" in errors


@pytest.mark.stress
def test_one_that_crashes_once_is_started_again(tmp_path):
    status, output, errors = supervise(tmp_path, "first and os.kill(os.getpid(), signal.SIGKILL); print('finished')")
    assert (status, output, starts(tmp_path)) == (0, "finished\n", 2)
    assert errors.endswith("summary: 2 starts; crashed 1; last exit status 0\n")


@pytest.mark.stress
@pytest.mark.parametrize("whose", ["its own", "a child's"])
def test_one_that_eats_memory_is_ended(whose, tmp_path):
    code = "held = [b'x' * 2**20 for _ in range(400)]\nthreading.Event().wait()\n"
    if whose == "a child's":
        code = f"import subprocess\nsubprocess.run([sys.executable, '-c', {'import threading; ' + code!r}])"
    status, _, errors = supervise(tmp_path, code, "--memory", "300", "--restarts", "0")
    assert status in (-signal.SIGTERM, -signal.SIGKILL)
    assert starts(tmp_path) == 1
    assert "more than 300 MiB" in errors
    assert 'main.py", line ' in errors
    assert "summary: 1 starts; memory 1; " in errors


@pytest.mark.stress
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_both_and_nothing_is_started_again(number, tmp_path):
    with begin(tmp_path, WAITS) as process:
        process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=280)
    assert (process.returncode, starts(tmp_path)) == (-number, 1)
    assert "starting it again" not in (tmp_path / "errors").read_text()


def test_a_signal_that_does_not_end_it_reaches_it(tmp_path):
    code = "signal.signal(signal.SIGUSR1, print)\nprint('here', flush=True)\nprint(signal.sigwait([signal.SIGUSR2]).name)"
    with begin(tmp_path, "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n" + code) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGUSR2)
        output = process.communicate(timeout=280)[0]
    assert (process.returncode, starts(tmp_path)) == (0, 1)
    assert output.startswith(f"{signal.SIGUSR1:d} "), "its handler ran"
    assert output.endswith("SIGUSR2\n")


@pytest.mark.stress
def test_signals_that_a_caller_had_blocked_stay_blocked(tmp_path):
    asks = "print(sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGALRM])
    try:
        status, output, errors = supervise(tmp_path, asks)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (status, output) == (0, f"{sorted([*map(int, before), signal.SIGUSR1 + 0, signal.SIGALRM + 0])}\n"), errors


@pytest.mark.stress
def test_one_that_closes_all_descriptors_writes_nothing_into_its_next_files(tmp_path):
    """And whether it stalls is not seen any more, which is said."""
    code = (
        "os.closerange(3, 100)\nfiles = [open(f'file {n}', 'w') for n in range(50)]\n"
        "while 'whether it stalls is not seen' not in open('errors').read():\n    threading.Event().wait(0.1)\n"
        "print(sum(os.path.getsize(f.name) for f in files))"
    )
    status, output, errors = supervise(tmp_path, code, *STALLS)
    assert (status, output, errors.count("whether it stalls is not seen from here on")) == (0, "0\n", 1), errors


@pytest.mark.stress
def test_the_program_does_not_outlive_a_supervisor_that_is_killed(tmp_path):
    with begin(tmp_path, f"def wait():\n    {GIL}\n\nprint(os.getpid(), flush=True)\nwait()") as process:
        pid = int(process.stdout.readline())
        assert tree.status(pid) is not None
        process.kill()
        assert process.stdout.read() == "", "which ends when the program is gone"


@pytest.mark.parametrize(
    "options",
    [["--stall", "3"], ["--supervise", "--stall", "0"], ["--supervise", "--restarts", "-1"], ["--supervise", "--memory", "x"]],
)
def test_options_without_supervise_and_bad_ones_are_refused(options, capsys, keeps_sigint):
    try:
        status = main(["run", *options, "main.py"])
    except SystemExit as end:  # argparse's
        status = end.code
    seen = capsys.readouterr()
    assert (status, seen.out) == (2, "")
    assert options[-2] in seen.err
