"""`import threadsafe_timeout.auto`: the one line. The same as `threadsafe_timeout.install()`.

Put it at the top of the runner. Settings come from the environment and pyproject.toml; see `Settings`.
"""

from threadsafe_timeout._patching.install import install

__all__: list[str] = []

install()
