"""``python -m dmm_exp.verify``: check the ledger or the record of deletions."""

from dmm_exp.console.command import start

if __name__ == "__main__":
    start("dmm_exp.records.verify_command.verify")
