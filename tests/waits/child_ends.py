"""What the tests of waits for descriptors and child processes share."""

from __future__ import annotations

import selectors

import pytest

forks = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
SELECTORS = [cls for name, cls in vars(selectors).items() if name in {"SelectSelector", "PollSelector", "EpollSelector"}]
