"""Whether an error says where it came from: a line that the test has marked with `# here`."""

from __future__ import annotations

import linecache
import pickle

from threadsafe_timeout import DeadlineExceeded


def assert_here(error: BaseException | None, file: str, function: str) -> None:
    """It came from the marked line of that function, says so, and still does in another process."""
    assert isinstance(error, DeadlineExceeded)
    assert error.where is not None, error
    found, line, name = error.where
    assert (found, name.rpartition(".")[2]) == (file, function)
    assert "# here" in linecache.getline(found, line)
    assert f", at {found}:{line}, in {name}" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.where, str(copy)) == (error.where, str(error))
