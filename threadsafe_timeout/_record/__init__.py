"""What a run writes about itself: its events, and once a second its status, in a folder of its own.

Promises: it holds nothing up, a failure of the disk ends the record and not the run, and no secret that can be known
as one is in it. `_patching.install` calls `switch.begin` and `switch.end`. The pool
says what happens through `_pool.observer`. The format is in docs/record.md.

Start with `recording.py`, the thread. In `notes.py` the pool's threads leave notes for it, `recorder.py` writes them,
`pools.py` and `snapshot.py` where that comes from, `folder.py` the files, `dump.py` the stacks.
`stalls.py` notices that nothing is done at all.
"""
