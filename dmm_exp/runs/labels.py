"""What figures of runs call ensembles, groups of points, and axes."""

from __future__ import annotations

WORDS = {
    "original": "original (doing nothing)",
    "unlearned": "unlearned (this run)",
    "oracle": "oracle (retrained)",
    "floor": "noise floor",
}
GROUP_WORDS = {"forget": "forget points", "retain": "retain points", "val": "validation points"}
MARGIN = "margin (nats)"
KLOM = "KLoM (nats)"
ENDS = ("low", "high")
