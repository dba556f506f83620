"""Scores in JSON, which has no NaN: null stands for it."""
import math
from typing import Any


def to_json(value: Any) -> Any:
    """Replace NaN by None in plain values."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def from_json(value: Any) -> Any:
    """Replace None by NaN in a dictionary of scores."""
    return {key: from_json(item) for key, item in value.items()} if isinstance(value, dict) else math.nan if value is None else value
