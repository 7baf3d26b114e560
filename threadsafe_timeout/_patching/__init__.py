"""Finding the patches, applying them to modules as these come in, and undoing all of it.

It promises that a patch which fails leaves its module as it was, with one line in the log, and that `uninstall` puts
back what nobody has replaced since. A patch is a module with `MODULES` and `apply(module, patching)`, found by its
entry point.

Users come in through `install`, `patched` and `uninstall` in `install`. Start there; `found` knows the patches there
are, `patch` loads one, `versions` says which versions of a package it fits. `_environment.finder` tells what comes in.
"""
