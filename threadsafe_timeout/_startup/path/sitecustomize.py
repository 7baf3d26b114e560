# What Python runs at its start when `threadsafe-timeout run` put this folder into PYTHONPATH. Any Python may meet it,
# of any version: a child process may be another one. So it is plain code, and it does nothing if that one has no
# threadsafe_timeout.
import os
import sys

try:
    # The program's own sitecustomize, where it has one. Python takes the last one in `sys.modules` for the one it
    # imported. If there is none, this ImportError is what Python expects, and the program sees no sitecustomize either.
    sys.path[:] = [folder for folder in sys.path if folder != os.path.dirname(__file__)]
    sys.path_importer_cache.pop(os.path.dirname(__file__), None)
    del sys.modules["sitecustomize"]
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401  # another one: this module is out of the way
finally:
    try:
        from threadsafe_timeout._startup import begin
    except ImportError:
        pass
    else:
        begin.begin()
