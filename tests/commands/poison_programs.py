"""Runners of which one task in a hundred brings the program down, for test_poison. Each tells its results as its last
line: how many tasks were done, and what became of the others."""

from __future__ import annotations

BEGIN = '''import ctypes, json, os, re, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

NUMBER, BAD = int(sys.argv[1]), int(sys.argv[2])

def bring_down():
    {bad}

def ask(number):
    if number == BAD:
        bring_down()
    return number

def tell(futures):
    errors = [type(error).__name__ for future in futures if (error := future.exception()) is not None]
    print(json.dumps([len(futures) - len(errors), errors]))
'''

SAVED = '''
if __name__ == "__main__":
    with ThreadPoolExecutor(8) as pool:
        tell([pool.submit(ask, number) for number in range(NUMBER)])
'''

KEYED = '''
import threadsafe_timeout
from threadsafe_timeout.checkpoint import open_run

if __name__ == "__main__":
    writer, finished = open_run("keyed.jsonl")
    with threadsafe_timeout.ThreadPoolExecutor(8, checkpoint=writer) as pool:
        by_key = pool.with_options(key=str)
        futures = [by_key.submit(ask, number) for number in range(NUMBER) if str(number) not in finished]
    tell(futures)
    writer.close(ended=True)
'''

LEGACY = '''
from dataclasses import dataclass

@dataclass
class Task:
    number: int
    timeout: float = 600

class BatchTestRunner:
    def _run_single_test_safe(self, task):
        return {"number": ask(task.number), "success": True}

if __name__ == "__main__":
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(BatchTestRunner()._run_single_test_safe, [Task(number) for number in range(NUMBER)]))
    bad = [one["error_type"] for one in found if not one["success"]]
    print(json.dumps([len(found) - len(bad), bad]))
'''

BAD = {
    "waits with the GIL": "ctypes.PyDLL(None).pause()",
    "computes with the GIL": "re.match('(a+)+$', 'a' * 200 + 'b')",
    "deadlock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "crashes": "ctypes.string_at(0)",
    # Another thread may take it, a moment later; one that waits by then is not suspected.
    "is sent a signal": "os.kill(os.getpid(), signal.SIGSEGV)\n    while True: pass",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


def program(bad: str, rest: str) -> str:
    return BEGIN.replace("{bad}", BAD[bad]) + rest
