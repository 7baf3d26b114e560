"""Tasks on threads, whose number stays what it was asked for: a stuck thread is replaced.

It promises that each future gets exactly one outcome, and that a task which is out of time ends by deadline plus two
graces or is abandoned. It does not promise that an abandoned thread ends.

Users come in through `executor.ThreadPoolExecutor`. Start there; then `crew` (the threads, the queue, replacing a stuck
one), `task` (one call, and the ladder it climbs when its time is up), `future`, `events`, `health`, `exit`.
"""
