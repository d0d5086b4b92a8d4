"""``python -m dmm_exp.scores``."""

from dmm_exp.commands.cli import scores

if __name__ == "__main__":
    scores()
