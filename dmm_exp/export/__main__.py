"""``python -m dmm_exp.export``."""

from dmm_exp.commands.cli import export

if __name__ == "__main__":
    export()
