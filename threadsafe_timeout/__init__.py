"""Deadlines, a thread pool that heals, and results that survive."""
