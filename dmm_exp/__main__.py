"""``python -m dmm_exp``."""

from dmm_exp.commands.cli import main

if __name__ == "__main__":
    main()
