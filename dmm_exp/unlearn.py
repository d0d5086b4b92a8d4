"""``python -m dmm_exp.unlearn``: delete rows from a trained network.

Imported, this name is the function :func:`dmm_exp.deletion.unlearn`, as ``from dmm_exp import unlearn`` gives it.
"""

import sys

if __name__ == "__main__":
    from dmm_exp.console.command import start

    start("dmm_exp.commands.experiments.unlearn")
else:
    from dmm_exp.deletion.unlearning import unlearn

    sys.modules[__name__] = unlearn  # type: ignore[assignment]
