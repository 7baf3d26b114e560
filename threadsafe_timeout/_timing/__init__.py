"""The clock, the one timer thread, and threads that do not hold up the exit.

`clock.monotonic` and `clock.wait` are the only time there is: a test replaces them by virtual time. `timer` calls back
at an instant, never early, as soon after it as the system allows; its `lock` also guards the state of every scope.

For every room above. Start with `clock`, then `timer`, which has one thread for all deadlines of the process;
`daemon_thread` starts threads without `threading`'s locks; `preload` loads what the first interrupt needs.
"""
