"""Leaderboards: many methods on many forget sets, each an ordinary run, ending in one ranking."""
