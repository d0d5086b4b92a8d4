"""``python -m dmm_exp.compare``."""

from dmm_exp.commands.cli import compare

if __name__ == "__main__":
    compare()
