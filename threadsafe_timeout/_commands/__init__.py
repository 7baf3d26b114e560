"""The subcommands of `threadsafe-timeout` that belong to no other room, one module each.

A command has `HELP`, `add_arguments(parser)` and `run(args) -> int`, and is found by its entry point in pyproject.toml.
It prints to standard output, its errors to standard error, and returns the exit status. Start with `cli`, which finds
and calls it, then `run`.
"""
