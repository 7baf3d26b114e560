"""What a run writes about itself: its events, and once a second its status, in a folder of its own.

Promises: it holds nothing up, a failure of the disk ends the record and not the run, and no secret that can be known
as one is in it. `_patching.install` calls `recorder.begin` when `status_dir` is set, and `recorder.end`. The pool says
what happens through `_pool.observer`. The format is in docs/record.md.

Start with `recorder.py`; `folder.py` has the files, `snapshot.py` what is in the status, `dump.py` the stacks.
"""
