"""Starting a program with `install()` in force, without a change to the program and without a frame of ours in it.

The program is a plain `python program.py`. The folder `path/` stands first in its PYTHONPATH; the `sitecustomize` there
is what Python runs before any program. It takes itself out of `sys.path`, runs the program's own `sitecustomize`, if
there is one, and then `begin`. Child processes of Python inherit PYTHONPATH, and so begin in the same way.

For `_commands/run`. Start with `launch`; then `path/sitecustomize.py`, then `begin`.
"""
