"""Patches: one module per patched library or runner, found through entry points."""
