"""`import threadsafe_timeout.auto` does the same as `threadsafe_timeout.install()`.

Put this line at the top of the runner. Settings come from the environment and pyproject.toml; see `Settings`. Tasks
have no deadline until `task_timeout` is set.
"""

from threadsafe_timeout._patching.install import install

__all__: list[str] = []

install()
