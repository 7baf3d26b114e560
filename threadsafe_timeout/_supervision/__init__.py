"""Keeping a run going: the program is a child that is started again when it stalls as a whole, crashes or asks for it.

Promises: a stalled program's stacks are written before it is ended; it is ended with its descendants; restarts are
bounded; signals to the supervisor reach the program. On Linux the program does not outlive its supervisor.

For `_commands/run`. Start with `supervisor`; `heart` decides that a run has stalled. The child's side, which says that
it moves, is `_startup/heartbeat`.
"""
