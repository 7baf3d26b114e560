"""What the docs promise is what is shipped: the wheel, installed in an empty environment, has every command, option,
fixture, extra, entry point and name that they mention, and each of them runs.

The lists are read from the docs themselves. A command, an option or an extra that appears there and in no run below
fails, and so does one that the wheel does not have.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "MIGRATION.md", *sorted((ROOT / "docs").glob("*.md"))]
# Whose options a page's table is about; and those of other programs that pages mention.
SUBJECT = {"replay.md": "replay", "fake-llm.md": "fake-llm", "doctor.md": "doctor", "checkpoints.md": "checkpoint", "guards.md": "guard"}
OTHERS = ("pip ", "python ", "pytest", "benchmarks/", "smart_batch_runner.py", "my_runner.py", "run --supervise")
BENCHMARKS = {"--records", "--rounds", "--threads"}

# What is run, by command and action: with the exit statuses that are right. Together they name every documented option.
RUNS: dict[str, list[tuple[str, set[int]]]] = {
    "doctor": [("doctor", {0}), ("doctor --json", {0})],
    "run": [("run runner.py --its --own --arguments", {0})],
    "checkpoint show": [("checkpoint show run.jsonl", {0})],
    "checkpoint verify": [("checkpoint verify run.jsonl", {0})],
    "checkpoint repair": [("checkpoint repair run.jsonl", {0})],
    "checkpoint compact": [("checkpoint compact run.jsonl", {0})],
    "checkpoint export": [
        (f"checkpoint export run.jsonl --to {form} -o out.{form} --status done", {0}) for form in ("json", "csv", "parquet", "legacy")
    ],
    "checkpoint import": [("checkpoint import imported.jsonl --from legacy results.json --set model=NAME", {0})],
    "checkpoint diff": [("checkpoint diff run.jsonl imported.jsonl", {1})],
    "guard": [
        ("guard check chats.jsonl", {0}),
        ("guard check chats.jsonl --limits 'cut_tags=6, no_action=off' --json --no-learn --examples 1 --quiet", {0}),
    ],
    "watch": [("watch --once", {0}), ("watch --json", {0})],
    "stacks": [("stacks", {0})],
    "report": [("report -o run.html", {0})],
    "fake-llm": [(
        "fake-llm --port 0 --host 127.0.0.1 --mix good=60,hang=20,trickle=20 --log requests.jsonl --minute 1 --tasks 100 --seed 1 "
        "--deadline 5 --classifier hang --embeddings hang --storm 2 --task-pattern 'task (\\d+)' --until-stdin-closes", {0},
    )],
    "replay": [
        # (Some of the promises that it checks are in seconds, which a busy machine misses: status 1.)
        ("replay --quick --html replay.html --json numbers.json --keep --only after --seed 1", {0, 1}),
        ("replay --minute 0.15 --workers 4 --tasks 4 --mix good=4 --version last --checkpoint-interval 2 --limit 20 --only before --json -", {0}),
        ("replay --minute 0.15 --workers 4 --tasks 4 --mix good=2,hang=2 --kill-at 1 --only after", {0, 1}),
        ("replay --from KEPT", {0, 1}),
        ("replay --engine asyncio --minute 0.15 --workers 4 --tasks 4 --mix good=4 --only after", {0, 1}),
    ],
}  # fmt: skip


class Environment:
    """A virtual environment with the wheel and nothing else, and a directory to work in."""

    def __init__(self, place: Path, wheel: Path) -> None:
        self.place = place
        self.wheel = wheel
        self.work = place / "work"
        self.work.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
        self.python = str(place / "venv" / "bin" / "python")
        self.pip(str(wheel))

    def pip(self, *what: str) -> None:
        done = subprocess.run(
            [self.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "THREADSAFE_", "PYTEST_"))}
        return subprocess.run(
            command, cwd=self.work, env=environment, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def command(self, line: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.place / "venv" / "bin" / "threadsafe-timeout"), *shlex.split(line))

    def code(self, code: str) -> str:
        ended = self.run(self.python, "-W", "error", "-c", code)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(place), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With the extras that the commands need, and pytest for the fixtures."""
    made = Environment(tmp_path_factory.mktemp("full"), wheel)
    made.pip(f"{wheel}[fake-llm,parquet,replay]", "pytest")
    return made


# --- what the docs say ------------------------------------------------------------------------------------------


def lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").split("\n"):
            yield page.name, line


def documented_commands() -> set[str]:
    """`doctor`, `checkpoint show`, …: after the program's name, in code."""
    found = set()
    for _, line in lines():
        code = [line.strip()] if line.startswith("    ") else re.findall(r"`([^`]*)`", line)
        for piece in code:
            for match in re.finditer(r"(?:^|[/&] ?|; ?)threadsafe-timeout ((?:[a-z][\w-]*)(?: [a-z]+(?= ))?)", f"{piece} "):
                words = match[1].split()
                found.add(" ".join(words if words[0] == "checkpoint" else words[:1]))
    found |= {f"checkpoint {action}" for action in re.findall(r"`checkpoint (\w+)`", "\n".join(line for _, line in lines()))}
    return found - {"checkpoint"}


def documented_options() -> set[tuple[str, str]]:
    """Command and option, from a line that names the command, or from the page about it."""
    found = set()
    for page, line in lines():
        commands = [command for command in RUNS if f"threadsafe-timeout {command}" in line]
        command = commands[0] if commands else SUBJECT.get(page)
        if command is None or command == "run" or any(other in line for other in OTHERS):
            continue
        code = " ".join([line] if line.startswith("    ") else re.findall(r"`([^`]*)`", line))
        found |= {(command.split()[0], option) for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", code) if option not in BENCHMARKS}
    return found


def documented_extras() -> set[str]:
    text = "\n".join(line for _, line in lines()) + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.findall(r"(?:threadsafe-timeout|'\.)\[([\w,-]+)\]", text) + re.findall(r"Extra: `([\w-]+)`", text)
    for module in [*ROOT.glob("threadsafe_timeout/**/*.py"), *ROOT.glob("legacy_compat/**/*.py"), *ROOT.glob("patches/**/*.py")]:
        found += re.findall(r'MissingExtraError\("[^"]*", "([\w-]+)"', module.read_text(encoding="utf-8"))
    return {name for group in found for name in group.split(",")}


def documented_fixtures() -> set[str]:
    text = " ".join(line for _, line in lines())
    groups = re.findall(r"fixtures? (?:are |is )?((?:`\w+`(?:,? and |, )?)+)", text)
    return {name for group in groups for name in re.findall(r"`(\w+)`", group)}


def documented_names() -> set[str]:
    """Dotted names of this package in the docs, and what their examples import."""
    found = set()
    for _, line in lines():
        found |= set(re.findall(r"\b(threadsafe_timeout(?:_legacy|_patches)?(?:\.[A-Za-z_]\w*)+)", line))
        for module, names in re.findall(r"from (threadsafe_timeout[\w.]*) import ([\w, ]+)", line):
            found |= {f"{module}.{name.strip()}" for name in names.split(",") if name.strip()}
    return {name for name in found if not name.endswith((".jsonl", ".py"))}


def test_the_docs_are_read() -> None:
    """What is there today, so that a reader of docs that finds nothing does not pass for docs that promise nothing."""
    assert documented_commands() >= {"doctor", "run", "fake-llm", "replay", "checkpoint show", "checkpoint export", "checkpoint import"}
    assert documented_options() >= {("checkpoint", "--from"), ("fake-llm", "--mix"), ("replay", "--html"), ("doctor", "--json")}
    assert documented_extras() >= {"fake-llm", "parquet", "replay", "test", "dev"}
    assert documented_fixtures() >= {"mock_clock", "autojump_clock", "fake_llm"}
    assert documented_names() >= {"threadsafe_timeout.auto", "threadsafe_timeout.Timer", "threadsafe_timeout_legacy.stopit"}


def test_every_documented_command_and_option_has_its_run() -> None:
    assert documented_commands() <= set(RUNS)
    run = {(command.split()[0], word) for command, listed in RUNS.items() for line, _ in listed for word in shlex.split(line)}
    assert documented_options() <= run


# --- and what is there ------------------------------------------------------------------------------------------


def test_every_extra_is_declared_and_means_something(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        fields = Parser().parsestr(archive.read(metadata).decode())
    assert documented_extras() <= set(fields.get_all("Provides-Extra") or [])
    for extra in documented_extras():
        assert any(f'extra == "{extra}"' in need or f"extra == '{extra}'" in need for need in fields.get_all("Requires-Dist") or []), extra


def test_every_entry_point_loads_in_the_bare_environment(bare: Environment) -> None:
    """But for pytest's, which pytest loads."""
    code = (
        "from importlib.metadata import distribution\n"
        "for entry in distribution('threadsafe-timeout').entry_points:\n"
        "    if entry.group != 'pytest11': entry.load()\n"
        "    print(entry.group, entry.name)\n"
    )
    loaded = set(bare.code(code).split("\n"))
    assert loaded >= {
        "threadsafe_timeout.checkpoint_formats legacy", "pytest11 threadsafe_timeout", "pytest11 threadsafe_timeout_fake_llm",
        "console_scripts threadsafe-timeout", "threadsafe_timeout.commands doctor", "threadsafe_timeout.patches threading",
    }  # fmt: skip
    groups = set(re.findall(r"entry[- ]point[s]? (?:in the )?group `([\w.]+)`", " ".join(line for _, line in lines())))
    assert groups <= {line.split()[0] for line in loaded if line}


def test_every_documented_name_is_there(bare: Environment) -> None:
    code = (
        "import importlib, sys, json\n"
        "missing = []\n"
        f"for name in json.loads({json.dumps(json.dumps(sorted(documented_names())))}):\n"
        "    parts = name.split('.')\n"
        "    for cut in range(len(parts), 0, -1):\n"
        "        try: found = importlib.import_module('.'.join(parts[:cut]))\n"
        "        except ModuleNotFoundError as error:\n"
        "            if not error.name or not error.name.startswith('threadsafe_timeout'): cut = 0; break\n"
        "            continue\n"
        "        break\n"
        "    try:\n"
        "        for part in parts[cut:] if cut else (): found = getattr(found, part)\n"
        "    except AttributeError: missing.append(name)\n"
        "from threadsafe_timeout.cli import GROUP\n"
        "from importlib.metadata import entry_points\n"
        "groups = {entry.group for entry in entry_points() if entry.group.startswith('threadsafe_timeout')}\n"
        "print(*[name for name in missing if name not in groups])\n"
    )
    assert bare.code(code).split() == []


def test_every_public_name_is_there(bare: Environment) -> None:
    bare.code("import threadsafe_timeout as t, threadsafe_timeout.checkpoint as c, threadsafe_timeout.testing as s\n"
              "for module in (t, c, s): [getattr(module, name) for name in module.__all__]\n")  # fmt: skip


def test_every_documented_setting_is_one(bare: Environment) -> None:
    text = "\n".join(line for _, line in lines())
    table = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), re.MULTILINE)
    names = {*table, *(name.lower() for name in re.findall(r"THREADSAFE_TIMEOUT_([A-Z][A-Z_]+)\b", text))}
    assert len(names) > 10
    known = set(bare.code("from threadsafe_timeout import Settings; print(*Settings.__dataclass_fields__)").split())
    assert names <= known
    assert known <= set(table), "a setting that is not documented"


@pytest.mark.parametrize(("line", "extra"), [("fake-llm --port 0", "fake-llm"), ("replay --quick", "replay"), ("checkpoint export run.jsonl --to parquet -o x", "parquet")])
def test_without_its_extra_a_command_says_what_to_install(bare: Environment, line: str, extra: str) -> None:
    bare.code("from threadsafe_timeout.checkpoint import CheckpointWriter\nCheckpointWriter('run.jsonl').close()")
    ended = bare.command(line)
    assert ended.returncode == 2, ended.stderr
    assert f"pip install 'threadsafe-timeout[{extra}]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [command for command in RUNS if command not in ("fake-llm", "replay")])
def test_every_command_runs_in_the_bare_environment(bare: Environment, command: str) -> None:
    prepare(bare)
    for line, statuses in RUNS[command]:
        if "parquet" not in line:
            check(bare, line, statuses)


@pytest.mark.parametrize("command", list(RUNS))
def test_every_command_runs_with_its_extra(full: Environment, command: str) -> None:
    prepare(full)
    for line, statuses in RUNS[command]:
        ended = check(full, line.replace("KEPT", full.place.joinpath("kept").read_text()) if "KEPT" in line else line, statuses)
        kept = re.search(r"kept: (\S+)", ended.stdout)
        if kept is not None:
            full.place.joinpath("kept").write_text(kept[1])
    for made in re.findall(r"(?:-o|--html|--json|--log) (\w[\w.]+)", " ".join(line for line, _ in RUNS[command])):
        assert (full.work / made).stat().st_size > 0


def prepare(environment: Environment) -> None:
    (environment.work / "runner.py").write_text("import sys, threadsafe_timeout\nassert sys.argv[1:] == ['--its', '--own', '--arguments']\n")
    result = {"success": True, "task_type": "simple", "prompt_type": "baseline"}
    (environment.work / "results.json").write_text(json.dumps([result]))
    chat = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
    (environment.work / "chats.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    for name in ("run.jsonl", "imported.jsonl"):
        (environment.work / name).unlink(missing_ok=True)
    environment.code("from threadsafe_timeout.checkpoint import CheckpointWriter\n"
                     "with CheckpointWriter('run.jsonl') as writer: writer.save('a', {'success': True})\n"
                     "CheckpointWriter('imported.jsonl').close()\n")  # fmt: skip
    environment.code("import threadsafe_timeout\n"
                     "threadsafe_timeout.install(status_dir='.threadsafe_timeout')\n"
                     "with threadsafe_timeout.ThreadPoolExecutor(1) as pool: pool.submit(abs, -1).result()\n")  # fmt: skip


def check(environment: Environment, line: str, statuses: set[int]) -> subprocess.CompletedProcess[str]:
    ended = environment.command(line)
    assert ended.returncode in statuses, f"{line}\n{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr
    return ended


def test_every_fixture_is_found_by_pytest(full: Environment) -> None:
    tests = full.work / "test_fixtures.py"
    tests.write_text(
        "".join(f"def test_{name}({name}):\n    assert {name} is not None\n" for name in sorted(documented_fixtures()))
        + "def test_the_server(fake_llm):\n    assert fake_llm(mix={'drop': 1}).base_url.startswith('http://127.0.0.1')\n"
        + "def test_the_clock(mock_clock):\n"
          "    from threadsafe_timeout import move_on_after\n"
          "    with move_on_after(5) as scope: mock_clock.jump(5)\n"
          "    assert scope.cancel_called\n"
    )  # fmt: skip
    ended = full.run(full.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(documented_fixtures()) + 2} passed" in ended.stdout


def test_the_one_line_works(bare: Environment) -> None:
    (bare.work / "line.py").write_text("import threadsafe_timeout.auto\nfrom concurrent.futures import ThreadPoolExecutor\nprint(ThreadPoolExecutor(1).stats()['workers'])\n")
    ended = bare.run(bare.python, "line.py")
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr
