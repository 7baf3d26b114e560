"""What running code looks like from outside: whose frame it is, what a call is named, what may be interrupted.

It promises to call none of the program's code while it looks, and to keep no frame alive.

For every room above. Start with `frames` (the frames of other threads, and the program's own among them); then `names`
(what a task is called in messages) and `transparent` (through which frames an exception may pass).
"""
