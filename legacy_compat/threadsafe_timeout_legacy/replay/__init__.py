"""The eight-hour stall, replayed: the legacy runner as it is, then with one line, against the same fake LLM."""
