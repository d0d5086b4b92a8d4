"""Runs and batches of them: what is started, where its results are, what becomes of a cell that fails."""
