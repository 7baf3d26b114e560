"""Undo, one by one, what the map of the bytecode knows about an interpreter, and see who notices.

    python benchmarks/mutate_codemap.py [--places]

For each mutation: what the self-check says (`code_map_check.problem`) and, with `--places`, whether raising at every
place of every shape finds something left undone with the self-check out of the way (minutes). A mutation that changes
nothing on this version is said to be none. Exits with 1 if one is not noticed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTATIONS = {
    "the table of caches is a dict": ('if hasattr(opcode._inline_cache_entries, "get")', "if 0"),
    "END_ASYNC_FOR jumps": (' - {opcode.opmap["END_ASYNC_FOR"]}', ""),
    "LOAD_SPECIAL enters nothing": ('_SPECIAL = {0: "BEFORE_WITH", 2: "BEFORE_ASYNC_WITH"}', "_SPECIAL = {}"),
    "__aenter__ is taken for __enter__": ('2: "BEFORE_ASYNC_WITH"}', '2: "BEFORE_WITH"}'),
    "__aenter__ enters nothing": (', 2: "BEFORE_ASYNC_WITH"}', "}"),
    "the call of __exit__ has 2 arguments": ("3 if sys.version_info >= (3, 14) else 2", "2"),
    "the call of __exit__ has 3 arguments": ("3 if sys.version_info >= (3, 14) else 2", "3"),
    "NOT_TAKEN ends a statement": ('"NOP", "NOT_TAKEN", ', '"NOP", '),
    "any call leaves an async with": ('if self.names[enter] == "BEFORE_ASYNC_WITH":', "if False:"),
    "the call of __aenter__ leaves an async with": ("_arguments[following] == 2", "_arguments[following] == 1"),
}
NOWHERE = {  # (mutation, the first version it matters on, the first it does not)
    "the table of caches is a dict": ((3, 13), (4,)),
    "END_ASYNC_FOR jumps": ((3, 14), (4,)),
    "LOAD_SPECIAL enters nothing": ((3, 14), (4,)),
    "__aenter__ is taken for __enter__": ((3, 14), (4,)),
    "__aenter__ enters nothing": ((3, 14), (4,)),
    "the call of __exit__ has 2 arguments": ((3, 14), (4,)),
    "the call of __exit__ has 3 arguments": ((3, 11), (3, 14)),
    "NOT_TAKEN ends a statement": ((3, 14), (4,)),
}
CHECK = "from threadsafe_timeout._interruption import code_map_check as c; print(c.problem())"
BLIND = "\n\ndef problem():  # the mutation run\n    return None\n"


def mutated(folder, old, new):
    """A copy of the project with one change undone."""
    for name in ("threadsafe_timeout", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    file = folder / "threadsafe_timeout" / "_interruption" / "code_map.py"
    text = file.read_text()
    if text.count(old) != 1:
        sys.exit(f"{old!r} is in the map {text.count(old)} times: bring this program up to date")
    file.write_text(text.replace(old, new))


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def places(folder):
    with open(folder / "threadsafe_timeout" / "_interruption" / "code_map_check.py", "a") as file:
        file.write(BLIND)
    tests = "tests/interruption/test_interrupt_places.py"
    done = run(folder, "-m", "pytest", "-q", "-n", "2", tests, "-k", "every_place")
    failed = [line.split("[")[-1].split("]")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return ", ".join(failed) or ("" if done.returncode == 0 else done.stdout[-500:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", action="store_true")
    options = parser.parse_args()
    unnoticed = 0
    for name, (old, new) in MUTATIONS.items():
        since, before = NOWHERE.get(name, ((3, 11), (4,)))
        if not since <= sys.version_info[:2] < before:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            mutated(folder, old, new)
            checked = run(folder, "-c", CHECK)
            said = (checked.stdout or checked.stderr).strip().splitlines()[-1]
            print(f"{name}\n    self-check: {said}", flush=True)
            if options.places:
                print(f"    every place: {places(folder) or 'nothing noticed'}", flush=True)
            unnoticed += said == "None"
    print(f"Python {sys.version.split()[0]}: {unnoticed} not noticed by the self-check")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
