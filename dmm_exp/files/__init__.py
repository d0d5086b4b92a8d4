"""Files: what a stranger may have written is read with care; what is written is whole or absent."""
