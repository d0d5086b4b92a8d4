"""``python -m dmm_exp.artifacts``."""

from dmm_exp.commands.cli import artifacts

if __name__ == "__main__":
    artifacts()
