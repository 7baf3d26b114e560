"""Raising an exception in a thread that computes, and only where that leaves nothing half done.

It promises that nothing is raised after the scope was left, nor between a `with` or `try` and its block. Where an
interpreter offers no such place it raises nothing; the pool abandons the thread then.

`pursuit.pursue`, `dismiss` and `insist` are for `_scopes` and `_pool`; `pursuit.support` says what this interpreter can
do. Start with `pursuit`; then `monitoring` (3.12 and later) or `async_exception` and `arrival` (3.11), and `code_map`
(which instructions are safe). `alarm` gives each thread its own `signal.alarm`.
"""
