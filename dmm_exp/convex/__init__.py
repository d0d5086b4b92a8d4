"""Unlearning where theory can be run: convex problems whose retrained model is known exactly (``docs/convex.md``)."""
