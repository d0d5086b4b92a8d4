"""``python -m dmm_exp.scores``."""

from dmm_exp.console.command import start

if __name__ == "__main__":
    start("dmm_exp.commands.experiments.scores")
