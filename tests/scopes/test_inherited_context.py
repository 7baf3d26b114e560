"""`thread_inherit_context` (since 3.14; the default without the GIL): threads begin in a copy of the context."""

import subprocess
import sys
from pathlib import Path

import inherited_context as programs
import pytest

SCRIPT = Path(programs.__file__)
flag = pytest.mark.skipif(sys.version_info < (3, 14), reason="thread_inherit_context came with 3.14")


def run(program, *options, install=False):
    arguments = [program.__name__, *(["install"] if install else [])]
    command = [sys.executable, *options, SCRIPT, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.stdout == "ok\n", ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stderr


@flag
@pytest.mark.parametrize("program", programs.OWN)
@pytest.mark.parametrize("install", [False, True], ids=["", "installed"])
def test_a_thread_of_the_program_is_in_the_scope_it_was_started_in(program, install):
    run(program, "-X", "thread_inherit_context=1", install=install)


@flag
@pytest.mark.parametrize("program", programs.OWN_PATCHED)
def test_a_thread_of_the_program_is_in_it_in_patched_calls(program):
    run(program, "-X", "thread_inherit_context=1", install=True)


@pytest.mark.parametrize("options", [[], pytest.param(["-X", "thread_inherit_context=1"], marks=flag)], ids=["", "inherits"])
@pytest.mark.parametrize("program", programs.SHARED + programs.SHARED_PATCHED)
def test_what_serves_the_whole_process_is_in_no_scope(program, options):
    run(program, *options, install=True)


@flag
@pytest.mark.parametrize("program", programs.SHARED)
def test_nor_is_it_without_install(program):
    run(program, "-X", "thread_inherit_context=1")
