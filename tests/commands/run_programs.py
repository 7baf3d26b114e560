"""Programs that show what a program can see of the way it was started. Each is run by `python` and by
`threadsafe-timeout run`, and must not tell the two apart: files by name, the arguments of `python`, standard input."""

from __future__ import annotations

from typing import NamedTuple


class Program(NamedTuple):
    files: dict[str, str]
    arguments: tuple[str, ...] = ("main.py",)
    stdin: str = ""
    options: tuple[str, ...] = ()  # of the interpreter


def main(code: str, *arguments: str, stdin: str = "", options: tuple[str, ...] = (), **files: str) -> Program:
    named = {name.replace("__", "/", 1) + ".py": text for name, text in files.items()}
    return Program({"main.py": code, **named}, ("main.py", *arguments), stdin, options)


PROGRAMS = {
    "argv": main("import sys; print(sys.argv, sys.orig_argv)", "a b", "--set", "x=1", "-m", "--", "-c", "", "é"),
    "path": main(
        "import sys, os; print(sys.path, os.getcwd(), __file__, __name__, __spec__, __package__, __builtins__)\n"
        "print(sorted(globals()), 'sitecustomize' in sys.modules, sys.executable, sys.prefix)"
    ),
    "stdin": main("import sys; print(repr(sys.stdin.read())); print(sys.stdin.isatty())", stdin="one\ntwo"),
    "input": main("print(input('? ')); print(input())", stdin="one\n"),
    "program from stdin": Program({}, ("-", "x"), "import sys; print(sys.argv, __name__); 1 / 0"),
    "exit status": main("import sys; sys.exit(37)"),
    "exit with text": main("import sys; sys.exit('no more')"),
    "exit with None in a thread": main("import threading, sys; threading.Thread(target=sys.exit, args=(3,)).start()"),
    "os._exit": main("import os; print('lost?', flush=True); os._exit(9)"),
    "traceback": main("def f(n):\n    return n and f(n - 1) or 1 / 0\n\ntry:\n    f(2)\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e"),
    "traceback of a thread": main("import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()\nt.join()"),
    "syntax error": main("def f(:\n    pass\n"),
    "null byte": main("print('a')\x00"),
    "killed by a signal": main("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
    "killed by SIGINT": main("import signal; print('here', flush=True); signal.raise_signal(signal.SIGINT)"),
    "KeyboardInterrupt caught": main(
        "import signal, sys\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n    print('caught')\n    sys.exit(4)"
    ),
    "signals as found": main("import signal; print([(s, signal.getsignal(s)) for s in sorted(signal.valid_signals())])"),
    "unraisable": main("class A:\n    def __del__(self): raise ValueError('in del')\n\na = A()\ndel a\nprint('on')"),
    "atexit": main("import atexit; atexit.register(print, 'last'); atexit.register(lambda: 1 / 0); print('first')"),
    "module": Program({"pack/__init__.py": "", "pack/other.py": "X = 5", "pack/run.py": "from . import other\nimport sys\nprint(other.X, sys.argv, __spec__.name, __package__, sys.path[0])\n1 / 0"}, ("-m", "pack.run", "a", "-m")),
    "package": Program({"pack/__init__.py": "print('init')", "pack/__main__.py": "import sys; print(sys.argv, __name__, __spec__.name); sys.exit(2)"}, ("-m", "pack", "--x")),
    "no such module": Program({}, ("-m", "nosuch.thing")),
    "no such file": Program({}, ("nosuch.py",)),
    "folder": Program({"app/__main__.py": "import sys, near; print(sys.argv, __file__, __spec__.name, near.X, sys.path[0])", "app/near.py": "X = 1"}, ("app", "b")),
    "code": Program({}, ("-c", "import sys; print(sys.argv, __name__, globals().get('__file__')); 1 / 0", "-c", "--no-children")),
    "relative import of a script": main("from . import near", near=""),
    "pickle of __main__": main("import pickle\nclass A:\n    x = 3\n\nprint(pickle.loads(pickle.dumps(A())).x, A.__module__, pickle.dumps(A))"),
    "runpy": main("import runpy, sys\nsys.argv = ['other', 'z']\nprint(runpy.run_path('other.py', run_name='__main__')['X'])", other="import sys; X = sys.argv, __name__, __file__"),
    "flags": main("import sys; print(sys.flags, sys._xoptions, sys.warnoptions, __debug__)", options=("-O", "-X", "dev", "-W", "ignore", "-X", "own=1", "-B", "-u")),
    "no asserts": main("assert False; print(__doc__)", options=("-OO",)),
    "warning": main("import warnings; warnings.warn('old', DeprecationWarning)"),
    "warning as error": main("import warnings; warnings.warn('old')", options=("-W", "error")),
    "thread alive at exit": main("import threading, time\ndef f():\n    threading.main_thread().join()\n    print('after main')\n\nthreading.Thread(target=f).start()\nprint('main done')"),
    "daemon alive at exit": main("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nprint('main done')"),
    "closed stdout": main("import sys, os\nprint('lost')\nos.close(1)\n"),
    "stdout is None": main("import sys; sys.stdout = None; print('lost'); sys.stderr.write('seen')"),
    "big output": main("print('x' * 300_000)"),
    "own sitecustomize": main("import sys, sitecustomize; print(sitecustomize.X, sitecustomize.__file__)\nimport own; print(own.Y)", site__sitecustomize="X = 4; print('begun')", site__own="Y = 2"),
    "broken sitecustomize": main("print('on')", site__sitecustomize="1 / 0"),
    "exec": main("import os, sys; sys.stdout.flush(); os.execv(sys.executable, [sys.executable, '-c', 'print(7)'])"),
    "fork": main("import os, sys\npid = os.fork()\nif not pid:\n    print('child'); sys.exit(5)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))", options=("-W", "ignore")),
    "child": main("import subprocess, sys\ndone = subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv, sys.path); sys.exit(6)', 'q'])\nprint(done.returncode)", options=("-u",)),
    "encoding": main("import sys; print(sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors, sys.getfilesystemencoding())\nprint('\\udcff')"),
    "recursion": main("def f(): f()\ntry:\n    f()\nexcept RecursionError as e:\n    print(e)"),
    "asyncio": main("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    raise OSError(2, 'x')\n\nprint(asyncio.run(asyncio.wait_for(asyncio.sleep(0, 3), 50)))"),
}
for method in ("spawn", "forkserver"):
    PROGRAMS[method] = main(
        "import multiprocessing, sys\n"
        "class A:\n    x = 3\n\n"
        "def f(a, queue):\n    queue.put((type(a).__module__, a.x, __name__))\n\n"
        f"if __name__ == '__main__':\n    context = multiprocessing.get_context('{method}')\n"
        "    queue = context.SimpleQueue()\n"
        "    process = context.Process(target=f, args=(A(), queue))\n    process.start()\n"
        "    print(queue.get())\n    process.join()\n    print(process.exitcode)\n"
    )

# These leave the process as it is, and so can share one.
SHARE = (
    "argv", "path", "stdin", "exit status", "exit with text", "exit with None in a thread", "traceback", "traceback of a thread",
    "KeyboardInterrupt caught", "signals as found", "unraisable", "atexit", "pickle of __main__", "flags", "warning",
    "thread alive at exit", "daemon alive at exit", "big output", "encoding", "recursion", "asyncio", "runpy",
)  # fmt: skip
TOGETHER = """import traceback
for name, code in {programs!r}.items():
    print('---', name)
    try:
        exec(compile(code, name, 'exec'))
    except BaseException:
        traceback.print_exc()
raise KeyError('the last')
"""
PROGRAMS["together"] = Program(
    {**PROGRAMS["runpy"].files, "main.py": TOGETHER.format(programs={name: PROGRAMS[name].files["main.py"] for name in SHARE})},
    PROGRAMS["argv"].arguments, PROGRAMS["stdin"].stdin,
)  # fmt: skip
DEFAULT = {"together", "killed by a signal", "code", "module", "folder", "program from stdin", "own sitecustomize", "spawn"}
