"""Configuration: typed schema, checks with one-sentence errors, instantiation, identity of runs."""
