"""Imports everything that jobs need; only the server from which workers are forked imports this module.

Python's garbage collector is switched off meanwhile and the imported objects are frozen: it would scan them again and
again during the import and, in every worker, write into each object and so copy memory that the workers share.
"""

import gc
from importlib import import_module

JOBS = ("dmm_exp.unlearners.work", "dmm_exp.unlearners.fit", "dmm_exp.ensembles.training")  # by name: they lie above
LATER = ("hydra.utils", "safetensors.torch")  # modules that functions import only when they are called

gc.disable()
for _name in (*JOBS, *LATER):
    import_module(_name)
gc.freeze()
gc.enable()
