"""Tasks on threads, whose number stays what it was asked for: a stuck thread is replaced.

It promises that each future gets exactly one outcome, and that a task which is out of time ends by deadline plus two
graces or is abandoned. It does not promise that an abandoned thread ends.

Users come in through `executor`; start with `thread_pool.ThreadPoolExecutor`, which it gives them. Then `crew` (the
queue, and threads that come and go) with its `state`, `worker` (the loop of one thread), `task` (one call, its future)
and `task_scope`, `ladder` (what happens when its time is up), `replacing` (a stuck or dead worker), `settling`; then
`events`, `health`, `exit`.
"""
