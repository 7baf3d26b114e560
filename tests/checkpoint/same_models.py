"""A model of pydantic's, for test_same_results: at the top of a module, as its class is looked for there."""

from __future__ import annotations

import pydantic


class Answer(pydantic.BaseModel):
    text: str
    scores: dict[str, float]
