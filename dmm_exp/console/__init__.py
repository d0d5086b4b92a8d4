"""What a person at a terminal sees: progress, tables, and text that no terminal obeys."""
