"""What the tests of processes share."""

BOUND = 120.0  # seconds any of this may take on a busy machine
