"""How long the first of each thing takes in a fresh process, beside the later ones. Prints a Markdown table.

    pip install -e '.[bench]'
    python benchmarks/first.py

The other benchmarks measure after the first. An interrupt's time is from the deadline to the end of a loop.
"""

import argparse
import statistics
import subprocess
import sys

INTERRUPT = """
def once():
    began = time.perf_counter()
    try:
        with threadsafe_timeout.deadline({seconds}):
            while True:
                sum(range(10))
    except TimeoutError:
        pass
    return time.perf_counter() - began - {seconds}
"""
CALL = """
def timed(function):
    def once():
        began = time.perf_counter()
        function()
        return time.perf_counter() - began
    return once
"""
SCOPE = CALL + """
@timed
def once():
    with threadsafe_timeout.deadline(60):
        pass
"""
POOL = CALL + """
@timed
def once():
    with threadsafe_timeout.ThreadPoolExecutor(4, task_timeout=60) as pool:
        pool.submit(int).result()
"""
SAVE = CALL + """
import os, tempfile
folder = tempfile.mkdtemp()
@timed
def once():
    from threadsafe_timeout.checkpoint import CheckpointWriter
    with CheckpointWriter(os.path.join(folder, str(time.perf_counter_ns()))) as writer:
        writer.save("key", {"answer": 1})
"""
LLM = CALL + """
import openai
from threadsafe_timeout.testing.fake_llm import FakeLLM
server = FakeLLM()
server.__enter__()
import atexit; atexit.register(server.__exit__, None, None, None)
client = openai.OpenAI(base_url=server.base_url, api_key="none")
@timed
def once():
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
"""
INSTALL = "threadsafe_timeout.install(checkpoint='off')\n"
WHAT = {
    "scope": ("", SCOPE),
    "interrupt, deadline of 0.05 s": ("", INTERRUPT.replace("{seconds}", "0.05")),
    "interrupt, deadline of 1 s": ("", INTERRUPT.replace("{seconds}", "1.0")),
    "the same with `install()`": (INSTALL, INTERRUPT.replace("{seconds}", "1.0")),
    "pool, made and left": ("", POOL),
    "save, file made and closed": ("", SAVE),
    "LLM call without `install()`": ("", LLM),
    "LLM call with `install()`": (INSTALL, LLM),
}


def measure(before, code, times):
    """Milliseconds of the first, and the median of the later ones, in a process of its own."""
    script = f"import time, threadsafe_timeout\n{before}{code}\nprint(*(once() for _ in range({times})), flush=True)"
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True)
    first, *later = (1e3 * float(number) for number in done.stdout.split())
    return first, statistics.median(later)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--processes", type=int, default=9)
    options.add_argument("--times", type=int, default=6)
    chosen = options.parse_args()
    print(f"Python {sys.version.split()[0]}, medians of {chosen.processes} processes, ms\n")
    print("| | first | later |\n|---|---|---|")
    for what, (before, code) in WHAT.items():
        rows = [measure(before, code, chosen.times) for _ in range(chosen.processes)]
        first, later = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {what} | {first:.2f} | {later:.2f} |", flush=True)


if __name__ == "__main__":
    main()
