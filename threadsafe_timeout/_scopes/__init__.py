"""A block that can be cancelled, and everything that follows from that.

It promises that a scope expires once, turns only its own cancellation into an error, and lets code that cleans up
finish within one grace. It never raises in a thread by itself: a thread that computes is left to `_interruption`, which
`scope` calls when something is cancelled (the one import upwards, made when it is first needed).

For every room above: `deadlines`, `shield`, `around` (`current_scope`, `raise_if_cancelled`, …), `registration`
(`on_cancel`), `time_left`. Start with `around` and `scope`; then `registration` (what is called when a scope is
cancelled), `clean_up`, `leaving`, `tokens`, `catchable` (a deadline that the task may catch), `coroutines`.
"""
