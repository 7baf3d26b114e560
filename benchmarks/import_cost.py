"""What the one line costs a program: the CPU time of its import. Prints a Markdown table.

    pip install -e '.[test]'
    python benchmarks/import_cost.py
    python benchmarks/import_cost.py --modules  # which modules take the time, the most expensive last

Each figure is the least CPU time (user and system) of several processes that import and exit, in turns with those of a
bare interpreter, with compiled bytecode. The ratio for openai is the median of those of neighbours: other work on the
machine takes from both.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile

BARE = "pass"
PACKAGE = "import threadsafe_timeout"
AUTO = "import threadsafe_timeout.auto"
OPENAI = "import openai"


def environment():
    """This process's, with bytecode, and with no settings of ours."""
    return {
        name: value for name, value in os.environ.items()
        if not name.startswith(("THREADSAFE_TIMEOUT", "PYTHONDONTWRITEBYTECODE", "PYTHONPROFILEIMPORTTIME"))
    }  # fmt: skip


def cpu_seconds(program, folder):
    child = subprocess.Popen([sys.executable, "-c", program], cwd=folder, env=environment())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{program!r} ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime


def measured(programs, rounds, folder):
    """Milliseconds of CPU, of each round."""
    taken = {program: [] for program in programs}
    for program in programs:
        cpu_seconds(program, folder)  # which compiles what has no bytecode yet
    for _ in range(rounds):
        for program in programs:
            taken[program].append(cpu_seconds(program, folder) * 1000)
    return taken


def table(rounds):
    with_openai = importlib.util.find_spec("openai") is not None
    programs = [BARE, PACKAGE, AUTO] + ([OPENAI, f"{AUTO}; {OPENAI}"] if with_openai else [])
    with tempfile.TemporaryDirectory() as folder:  # no pyproject.toml
        taken = measured(programs, rounds, folder)
    found = {program: min(times) for program, times in taken.items()}
    print(
        f"\nPython {sys.version.split()[0]}, the least of {rounds} processes each, load {os.getloadavg()[0]:.1f}, "
        f"bare interpreter {found[BARE]:.0f} ms\n"
    )
    print("| program | ms of CPU above the bare interpreter |\n|---|---|")
    for program in programs[1:]:
        print(f"| `{program}` | {found[program] - found[BARE]:.1f} |")
    if with_openai:
        ratios = [with_line / alone for with_line, alone in zip(taken[f"{AUTO}; {OPENAI}"], taken[OPENAI], strict=True)]
        print(f"\nWith the line, openai's program takes {statistics.median(ratios):.2f} times as long.")


def modules():
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", AUTO], capture_output=True, text=True, check=True, env=environment()
    )
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:") and "self" not in line]
    print(*sorted(lines, key=lambda line: int(line.split("|")[0].split(":")[1])), sep="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--modules", action="store_true", help="print what each module takes for itself")
    options = parser.parse_args()
    if options.modules:
        modules()
    else:
        table(options.rounds)


if __name__ == "__main__":
    main()
