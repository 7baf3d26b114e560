"""Seeing that a conversation between a model and its tools goes in circles, and ending it politely.

Read `loops.py` first: `find_loop` and `LoopGuard`, the two functions everything else is built on. `readers.py` turns
any client's messages into what `turns.py` describes, `detectors.py`, `repetition.py` and `paraphrases.py` count,
`limits.py` holds the thresholds, `experience.py` what one run teaches. `guard.py` and `plain_loop.py` end an executor's
loop, `client.py` looks at the answers of openai's and anthropic's clients, `transcripts.py` and `check.py` try it all
on recorded runs.

Promises: reading a message never raises, whatever it is; memory per conversation is bounded; nothing here waits.
The public face is `threadsafe_timeout.guard`.
"""
