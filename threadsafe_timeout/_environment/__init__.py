"""What else is in this process: modules as they come in, the program's own file, other tools that patch as well, what
is installed.

It knows nothing of scopes, pools or settings. It promises to notice every wanted module, however it is imported, and to
say when nothing can be patched here (gevent or eventlet have monkey-patched, or this is a sub-interpreter).

For `_timing` (which looks for new modules when a scope begins), `_pool`, `_record` and `_patching`. Start with
`finder`; then `loader` (a module that is being imported), `program` (a runner that is `__main__`), `surroundings` (the
other tools), `distributions` (the patches that are installed, and versions).
"""
