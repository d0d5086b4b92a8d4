"""Studies: tables whose every cell is an ordinary run, repeated over seeds."""
