"""Imported by the server that workers are forked from, and by nothing else: everything that jobs need.

Python's garbage collector is kept out of it: it would go through all of that again and again while it is imported and,
in every worker, write into each object and thereby copy memory that workers share.
"""

import gc
from importlib import import_module

JOBS = "dmm_exp.unlearners.work"  # imports everything that jobs use; by name, since it lies above this module
LATER = ("hydra.utils", "safetensors.torch")  # what functions import only when they are called

gc.disable()
for _name in (JOBS, *LATER):
    import_module(_name)
gc.freeze()
gc.enable()
