"""What an import with the line in force imports, and what it leaves: run as a program, by `test_import_orders`.

    python tests/patching/import_orders.py [--all] [--threads SEED…] [--say]

After `import threadsafe_timeout.auto` every module is imported first of all, each in a fork of its own: each that a
patch wants (of the standard library, or with `--all`), each of ours, and each public name of ours. Printed, as JSON:
what went wrong (`problems`), and the circles that one of ours is in, among what is not loaded yet (`circles`): in a
circle two threads could wait for each other. With `--threads`: only this, for each seed: eight threads import all of
them at once, each in an order of its own.
"""

import builtins
import faulthandler
import importlib
import json
import os
import random
import sys
import threading

import threadsafe_timeout.auto
from threadsafe_timeout._environment import loader as _loader
from threadsafe_timeout._patching import install as _install

LOADED = set(sys.modules)
THREADS = 8
arrows = set()
under_lock = set()
local = threading.local()
ALONE = {
    "threadsafe_timeout._pool.thread_pool", "threadsafe_timeout._pool.dummy_pool",
    "threadsafe_timeout._startup.path.sitecustomize",  # which only Python imports, at its start
}  # fmt: skip


def importer(frame):
    """The module that is being run, or the one that has just been run and whose patches are loaded."""
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return frame.f_globals.get("__name__")
        if frame.f_code is _loader._Loader.exec_module.__code__:
            return frame.f_locals["module"].__name__
        frame = frame.f_back
    return None


def note(name, frame):
    known = sys.modules.get(name)
    if name in LOADED:
        return
    ready = known is not None and not getattr(getattr(known, "__spec__", None), "_initializing", False)
    if _install._lock._is_owned() and not ready:
        under_lock.add(name)
    origin = importer(frame)
    if origin is not None and origin not in LOADED and origin != name:
        arrows.add((origin, name))


def watch():
    """Note every import, also of what is there already: it may be half of a module."""
    plain, by_name = builtins.__import__, importlib._bootstrap._gcd_import

    def watched(name, globals=None, locals=None, fromlist=(), level=0):
        if not getattr(local, "busy", False):
            local.busy = True
            try:
                whole = name
                if level:
                    package = (globals or {}).get("__package__") or ""
                    base = package.rsplit(".", level - 1)[0] if level > 1 else package
                    whole = f"{base}.{name}" if name else base
                frame = sys._getframe(1)
                note(whole, frame)
                for inner in fromlist or ():
                    if f"{whole}.{inner}" in sys.modules:
                        note(f"{whole}.{inner}", frame)
            finally:
                local.busy = False
        return plain(name, globals, locals, fromlist, level)

    def watched_by_name(name, package=None, level=0):
        if level == 0 and not getattr(local, "busy", False):
            local.busy = True
            try:
                note(name, sys._getframe(1))
            finally:
                local.busy = False
        return by_name(name, package, level)

    builtins.__import__, importlib._bootstrap._gcd_import = watched, watched_by_name


def in_fork(names, imported):
    """What the import of these, in this order, does in a process that has imported none of them."""
    reading, writing = os.pipe()
    if "--say" in sys.argv:
        sys.stderr.write(f"{names}\n")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            faulthandler.dump_traceback_later(200, exit=True)  # a deadlock
            with os.fdopen(writing, "w") as file:
                json.dump(imported(names), file)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"problems": [f"{names}: the process died"], "arrows": []}


def import_one(name):
    """Import a module, or (`:name`) use a public name of the library. What went wrong, or None."""
    parts = name.split(".")
    try:
        if name.startswith(":"):
            getattr(threadsafe_timeout, name[1:])
            return None
        # Packages first. If a package imports its own modules, Python itself cannot import it in one thread and one of
        # these, at the same time, in another: each of them would wait for the other.
        for end in range(len(parts)):
            importlib.import_module(".".join(parts[: end + 1]))
    except ImportError as exc:
        return repr(exc) if name.startswith((":", "threadsafe_timeout")) else None
    return None


def one_by_one(names):
    watch()
    problems = [problem for problem in map(import_one, names) if problem is not None] + unpatched()
    problems += [f"{name} is imported with the lock of the patches held" for name in sorted(under_lock & sys.modules.keys())]
    return {
        "problems": [f"{names}: {problem}" for problem in problems],
        "arrows": sorted(each for each in arrows if each[1] in sys.modules),
    }


def by_threads(seed, names):
    """What `THREADS` threads leave that import all of them at once, each in an order of its own."""
    barrier, problems = threading.Barrier(THREADS), []

    def import_all(number):
        order = random.Random(f"{seed} {number}").sample(names, len(names))
        barrier.wait()
        for name in order:
            try:
                problem = import_one(name)
            except BaseException as exc:
                problem = repr(exc)
            if problem is not None:
                problems.append(f"{name}: {problem}")

    threads = [threading.Thread(target=import_all, args=(number,)) for number in range(THREADS)]
    sys.setswitchinterval(1e-4)  # many more meet in the middle of an import
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"problems": [f"seed {seed}: {problem}" for problem in problems + unpatched()], "arrows": []}


def unpatched():
    """What is not as the patches leave it."""
    patching = _install.installed()
    problems = [f"{where}: {why.detail}" for where, why in patching.problems.items() if why.kind == "failed"]
    for name, patch in patching.patches.items():
        for module in patch.MODULES:
            if module in sys.modules and patching.applied.get((name, module)) is not sys.modules[module]:
                problems.append(f"{name} is not applied to {module}")
    thread = sys.modules.get("concurrent.futures.thread")
    if thread is not None and not issubclass(thread.ThreadPoolExecutor, threadsafe_timeout.ThreadPoolExecutor):
        problems.append("the pool of concurrent.futures is not ours")
    return problems


def circles(found):
    """The strongly connected sets of more than one module, with one of ours."""
    after = {}
    for origin, name in found:
        after.setdefault(origin, set()).add(name)
    reach = {}
    for start in after:
        seen, left = set(), [start]
        while left:
            for name in after.get(left.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    left.append(name)
        reach[start] = seen
    sets = {
        tuple(sorted(other for other in reach[start] if start in reach.get(other, ()))) for start in reach
        if start in reach[start]
    }  # fmt: skip
    return sorted(names for names in sets if any(name.startswith("threadsafe_timeout") for name in names))


def main():
    wanted = sorted({name for patch in _install.installed().patches.values() for name in patch.MODULES} - LOADED)
    if "--all" not in sys.argv:  # the import of a client takes seconds
        wanted = [name for name in wanted if name.partition(".")[0] in sys.stdlib_module_names]
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import imports

    ours = sorted(name for name in {*imports.modules()} - LOADED - ALONE if not name.endswith("__main__"))
    ours += [f":{name}" for name in threadsafe_timeout.__all__ if name not in vars(threadsafe_timeout)]
    if "--threads" in sys.argv:
        seeds = sys.argv[sys.argv.index("--threads") + 1 :]
        done = [in_fork(f"seed {seed}", lambda _, seed=seed: by_threads(seed, [*wanted, *ours])) for seed in seeds]
        json.dump({"orders": len(done), "problems": [one for each in done for one in each["problems"]]}, sys.stdout)
        return
    orders = [[name] for name in [*wanted, *ours]]
    done = [in_fork(order, one_by_one) for order in orders]
    found = {tuple(arrow) for each in done for arrow in each["arrows"]}
    problems = sorted({problem for each in done for problem in each["problems"]})
    json.dump({"orders": len(orders), "problems": problems, "circles": circles(found)}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
