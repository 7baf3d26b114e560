"""What the command `run` costs a program, beside a plain `python`, in one run. Prints a Markdown table.

    pip install -e .
    python benchmarks/run_start.py

- The start of a program that does nothing, with the line in it too.
- The time of one that only computes: with `--supervise` a thread of it tells that it moves.
- From the moment a program stalls (its deadlock, all threads) until it has been started again.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUN = [sys.executable, "-m", "threadsafe_timeout", "run"]
SUPERVISED = [*RUN, "--supervise"]
EMPTY = "pass"
LINE = "import threadsafe_timeout.auto"
COMPUTES = "for _ in range(5_000_000): pass"
STALL = 3.0
STALLS = """
import sys, threading, time
from pathlib import Path
notes = Path(sys.argv[1])
with notes.open("a") as file:
    print(time.time(), file=file)
if len(notes.read_text().split()) == 1:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""
STARTS = {
    "`python program.py`": ([sys.executable], EMPTY),
    "the same with the line in it": ([sys.executable], LINE),
    "`run program.py`": (RUN, EMPTY),
    "`run --supervise program.py`": (SUPERVISED, EMPTY),
}
COMPUTING = {
    "`python program.py`": ([sys.executable], COMPUTES),
    "`run program.py`": (RUN, COMPUTES),
    "`run --supervise program.py`": (SUPERVISED, COMPUTES),
}


def processor_seconds(command):
    """The processor time of a command and all that it starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=os.environ | {"THREADSAFE_TIMEOUT_CHECKPOINT": "off"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(title, commands, folder, rounds):
    programs = {}
    for number, (name, (command, code)) in enumerate(commands.items()):
        programs[name] = [*command, str(folder / f"program{number}.py")]
        (folder / f"program{number}.py").write_text(code)
    took = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            took[name].append(processor_seconds(command))
    least = {name: min(values) for name, values in took.items()}
    first = next(iter(least.values()))
    print(f"| {title} | ms of processor | above the first |\n|---|---|---|")
    for name, value in least.items():
        print(f"| {name} | {1e3 * value:.0f} | {1e3 * (value - first):.0f} |", flush=True)
    print()


def stall_to_start(folder, number):
    """Seconds from a stall to the next start, less the time that the supervisor was told to wait."""
    program, notes = folder / "stalls.py", folder / f"notes{number}"
    program.write_text(STALLS)
    command = [*SUPERVISED, "--stall", str(STALL), str(program), str(notes)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=600)
    first, second = map(float, notes.read_text().split())
    return second - first - STALL


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    chosen = options.parse_args()
    print(f"Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}, the least of {chosen.rounds}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table("start", STARTS, folder, chosen.rounds)
        table("computing", COMPUTING, folder, chosen.rounds)
        waits = [stall_to_start(folder, number) for number in range(3)]
        print(f"From a stall to the next start, {STALL:.0f} s of `--stall` and the first pause of 1 s taken off:")
        print(f"{statistics.median(waits) - 1:.1f} s, the median of {len(waits)}")


if __name__ == "__main__":
    main()
