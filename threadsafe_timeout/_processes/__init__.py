"""The processes that a task of the pool has started, and their end when the task is given up.

It promises that a given-up task leaves no process behind but those that are kept, and that the program's exit does not
wait for one. Without /proc it ends only processes that have a `Popen` or `Process` object.

`_pool` calls `started.end` and `exit.leave`; patches note what is started through `started.note`. Start with `started`;
then `tree` (a process and its descendants), `children`, `workers` (of executors and pools of processes), `exit`.
"""
