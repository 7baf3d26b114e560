"""Asks a model what kind of failure a failed test was."""

from __future__ import annotations

import json
import time
from typing import Any

from legacy_clock import seconds

CLASSIFIER_MODEL = "error-classifier"
_FAILED = ("other_errors", "classification failed", 0.0)


class AIErrorClassifier:
    def __init__(self) -> None:
        from api_client_manager import get_client_for_model

        self.client = get_client_for_model(CLASSIFIER_MODEL)

    def classify(self, result: dict[str, Any]) -> tuple[str, str, float]:
        """Category, reason, confidence. A hang costs 3 attempts × 3 requests × 2 minutes, and the pauses."""
        prompt = (
            "Classify this error. Answer as JSON with category, reason, confidence.\n"
            f"Task type: {result.get('task_type')}\nError: {result.get('error')}\nTurns: {result.get('turns')}\n"
        )
        for attempt in range(3):
            try:
                answer = self.client.chat.completions.create(
                    model=CLASSIFIER_MODEL, messages=[{"role": "user", "content": prompt}], timeout=seconds(120)
                )
                found = json.loads(answer.choices[0].message.content or "")
                return found["category"], found["reason"], float(found["confidence"])
            except Exception as e:  # sin: whatever it was, once more
                print(f"[WARN] error classification failed ({attempt + 1}/3): {e}")
                time.sleep(seconds(10))
        return _FAILED
