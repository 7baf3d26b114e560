"""Runners that know of no saving, for test_run_save: each writes a line when a task begins, and its tasks wait for a byte
of standard input (or its end) before they are over. At its end each writes its results as the last line."""

from __future__ import annotations

BEGIN = '''import json, os, sys

def begin(name):
    os.write(1, f"began {name}\\n".encode())
    os.read(0, 1)

def over(results):
    os.write(1, (json.dumps(results, sort_keys=True) + "\\n").encode())

'''

AS_COMPLETED = BEGIN + '''
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from tqdm import tqdm

@dataclass
class Task:
    name: str
    attempts: int = 0

class Runner:
    def __init__(self):
        self.lock, self.client, self.done = threading.Lock(), object(), 0

    def run(self, task):
        task.attempts += 1
        begin(task.name)
        with self.lock:
            self.done += 1
        return {"name": task.name, "scores": (len(task.name), 0.5)}

runner, results = Runner(), {}
with ThreadPoolExecutor(4) as pool:
    futures = {pool.submit(runner.run, Task(f"t{number % 9}")): number for number in range(12)}
    for future in tqdm(as_completed(futures), total=12, disable=None):
        results[futures[future]] = future.result()
over(results)
'''

MAP = BEGIN + '''
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import Enum

class Grade(Enum):
    GOOD = "good"

@dataclass
class Result:
    number: int
    grade: Grade

def grade(number, model):
    begin(number)
    return Result(number, Grade.GOOD)

with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda number: grade(number, "m"), range(12)))
assert all(type(one) is Result and one.grade is Grade.GOOD for one in found)
over([one.number for one in found])
'''

NESTED = BEGIN + '''
from concurrent.futures import ThreadPoolExecutor

def evaluate(model):
    def ask(question):
        begin(f"{model} {question}")
        return f"{model}: {question}"

    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(ask, question) for question in ("why", "how", "why")]]

with ThreadPoolExecutor(2) as pool:
    over(dict(zip("abcd", pool.map(evaluate, "abcd"))))
'''

# Name: the program, how many calls of `begin` there are, at most how many at a time, and its results.
PROGRAMS = {
    "as_completed": (AS_COMPLETED, 12, 4, {str(n): {"name": f"t{n % 9}", "scores": [2, 0.5]} for n in range(12)}),
    "map": (MAP, 12, 4, list(range(12))),
    "nested": (NESTED, 12, 4, {model: [f"{model}: {question}" for question in ("why", "how", "why")] for model in "abcd"}),
}
