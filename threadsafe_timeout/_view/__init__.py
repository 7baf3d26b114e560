"""Looking at a run from outside: from a second terminal while it lives, and at what it left when it is over.

It promises to read files only, and to take any file as it comes: half-written, torn, missing, from a newer version.
What comes from a run is text of a model or a task: whoever shows it escapes it. Nothing of it is imported by a run.

`_commands` calls `watch`, `stacks` and `report`. Start with `reading` (which run, whether it lives, its events), then
`fields` (values of files that may hold anything).
"""
