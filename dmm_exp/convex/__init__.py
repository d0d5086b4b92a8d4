"""Unlearning on convex problems whose retrained model is known exactly, to test theory (``docs/convex.md``)."""
