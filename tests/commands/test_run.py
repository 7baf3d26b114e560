"""`threadsafe-timeout run`: a program cannot tell it from `python`, and has its deadlines."""

import os
import re
import signal
import subprocess
import sys
import zipfile

import pytest
from asleep import ON_PATH
from run_programs import DEFAULT, PROGRAMS

from threadsafe_timeout.cli import main

pytestmark = pytest.mark.usefixtures("nothing_set")
RUN = ("-m", "threadsafe_timeout", "run")


def start(arguments, cwd, options=(), **given):
    environ = {**os.environ, "PYTHONPATH": str(cwd / "site"), "PYTHONHASHSEED": "0", **given.pop("env", {})}
    return subprocess.run(
        [sys.executable, *options, *arguments], cwd=cwd, env=environ, capture_output=True, timeout=200, check=False, **given
    )


def seen(done):
    """But for the addresses of objects, which differ from start to start."""
    return done.returncode, done.stdout, re.sub(rb"0x[0-9a-f]+", b"0x", done.stderr)


def write(files, folder):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def under_stress(name, *values):
    """Each start costs a good part of a second; the others take the same paths."""
    return pytest.param(*(values or [name]), marks=pytest.mark.stress, id=name)


@pytest.mark.parametrize("name", [name if name in DEFAULT else under_stress(name) for name in PROGRAMS])
def test_it_is_the_same_as_python(name, tmp_path):
    program = PROGRAMS[name]
    write(program.files, tmp_path)
    stdin = program.stdin.encode()
    plain = start(program.arguments, tmp_path, program.options, input=stdin)
    ours = start([*RUN, *program.arguments], tmp_path, program.options, input=stdin)
    if "site/sitecustomize.py" in program.files:  # which the command, a Python of its own, has run as well
        nothing = start(["-c", ""], tmp_path, program.options)
        plain.stdout, plain.stderr = nothing.stdout + plain.stdout, nothing.stderr + plain.stderr
        assert nothing.stdout + nothing.stderr
    assert seen(ours) == seen(plain)


@pytest.mark.stress
def test_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", "import sys, near; print(sys.argv, __file__, near.__file__, sys.path[0]); 1 / 0")
        archive.writestr("near.py", "")
    plain, ours = start(["app.pyz", "b"], tmp_path), start([*RUN, "app.pyz", "b"], tmp_path)
    assert plain.stdout.startswith(b"['app.pyz', 'b']")
    assert seen(ours) == seen(plain)


POOL = "from concurrent.futures import ThreadPoolExecutor as P; print(P.__module__)"
PATCHED, PLAIN = b"threadsafe_timeout_patches.futures\n", b"concurrent.futures.thread\n"
CHILD = f"import subprocess, sys; sys.stdout.flush(); subprocess.run([sys.executable, '-c', {POOL!r}])"


@pytest.mark.stress
@pytest.mark.parametrize(
    "arguments", [("main.py",), ("-m", "main"), ("-c", POOL), ("app",)], ids=["file", "module", "code", "folder"]
)
def test_every_kind_of_program_is_patched(arguments, tmp_path):
    write({"main.py": POOL, "app/__main__.py": POOL}, tmp_path)
    done = start([*RUN, *arguments], tmp_path)
    assert (done.stdout, done.stderr) == (PATCHED, b"")


SETTING = "from threadsafe_timeout._settings import settings; print(settings().grace)"
OWN = "import os; print(os.environ['PYTHONPATH'] == 'own')"


def test_children_are_patched_and_have_the_settings(tmp_path):
    both = f"{POOL}\n{SETTING}\n"
    write({"main.py": f"{both}{OWN}\nimport subprocess, sys; sys.stdout.flush(); subprocess.run([sys.executable, '-c', {both!r}])"}, tmp_path)
    done = start([*RUN, "--set", "grace=7", "main.py"], tmp_path, env={"PYTHONPATH": "own"})
    assert done.stdout == PATCHED + b"7.0\nFalse\n" + PATCHED + b"7.0\n"


def test_children_are_left_alone_when_told_so(tmp_path):
    write({"main.py": f"{POOL}\n{CHILD}\n{OWN}"}, tmp_path)
    done = start([*RUN, "--no-children", "main.py"], tmp_path, env={"PYTHONPATH": "own"})
    assert done.stdout == PATCHED + PLAIN + b"True\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "grace=x", "main.py"], "threadsafe-timeout: --set: grace: must be a number of seconds >= 0, got 'x'"),
        (["--set", "grce=1", "main.py"], "threadsafe-timeout: --set: grce: there is no such setting; did you mean 'grace'?"),
        ([], "threadsafe-timeout run: name a file to run, or -m MODULE, or -c CODE"),
    ],
)
def test_what_the_command_refuses_is_one_line_and_status_2(options, told, capsys, keeps_sigint):
    assert main(["run", *options]) == 2
    seen = capsys.readouterr()
    assert (seen.out, seen.err.count("\n")) == ("", 1)
    assert seen.err.startswith(told)


@pytest.mark.parametrize(
    ("options", "env", "told"),
    [
        ([], {"THREADSAFE_TIMEOUT_GRACE": "y"}, "threadsafe-timeout: environment variable THREADSAFE_TIMEOUT_GRACE: grace: must"),
        under_stress("patches", ["--set", "patches=tme"], {},
                     "threadsafe-timeout: environment variable THREADSAFE_TIMEOUT_PATCHES: patches: there is"),
        under_stress("name", ["--set", "grace=x"], {}, "threadsafe-timeout: --set: grace: must be a number"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line_and_status_2(options, env, told, tmp_path):
    write({"main.py": "print('ran')"}, tmp_path)
    done = start([*RUN, *options, "main.py"], tmp_path, env=env)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(told)
    assert done.stderr.count(b"\n") == 1


@pytest.mark.stress
def test_a_child_in_a_folder_with_a_bad_setting_says_so_and_goes_on(tmp_path):
    write({"main.py": f"import os; os.chdir('sub')\n{CHILD}", "sub/pyproject.toml": "[tool.threadsafe-timeout]\ngrace = 'x'\n"}, tmp_path)
    done = start([*RUN, "main.py"], tmp_path)
    assert done.stdout == PLAIN
    assert b"grace" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.endswith(b"; this process runs without deadlines\n")


@pytest.mark.parametrize("option", ["-S", under_stress("-E")])
def test_an_interpreter_that_would_not_be_patched_is_refused(option, tmp_path):
    write({"main.py": "print('ran')"}, tmp_path)
    import threadsafe_timeout

    root = os.path.dirname(os.path.dirname(threadsafe_timeout.__file__))
    code = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); from threadsafe_timeout.cli import main; sys.exit(main())"
    path = ":".join([root, *filter(None, sys.path)])
    done = start(["-c", code, path, "run", "main.py"], tmp_path, [option])
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, under_stress("TERM", signal.SIGTERM), under_stress("HUP", signal.SIGHUP)])
def test_a_signal_to_the_process_is_the_programs(number, tmp_path):
    # A signal that comes on the way into a wait does not end it, in any Python program: here it is said from the wait.
    program = (
        "import asleep, threading\n"
        "def tell():\n    asleep.wait_until_asleep(asleep.main_thread)\n    print('here', flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\nthreading.Event().wait()\n"
    )
    write({"main.py": program}, tmp_path)
    ended = []
    if signal.getsignal(number) is signal.SIG_IGN:  # of whoever started the tests (nohup), and so of the program
        pytest.skip(f"{signal.Signals(number).name} is ignored here")
    for arguments in ([], RUN):
        with subprocess.Popen(
            [sys.executable, *arguments, "main.py"], cwd=tmp_path, env={**os.environ, **ON_PATH},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout.readline() == b"here\n"
            process.send_signal(number)
            ended.append((process.communicate(timeout=200)[1].splitlines()[-1:], process.returncode))
    assert ended[0] == ended[1]
    assert ended[0][1] == -number
