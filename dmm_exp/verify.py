"""``python -m dmm_exp.verify``: check the ledger or the record of deletions."""

from dmm_exp.commands.cli import verify

if __name__ == "__main__":
    verify()
