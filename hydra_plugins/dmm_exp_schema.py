"""Hydra looks in ``hydra_plugins`` whenever it starts; so it knows the types that ``conf/config.yaml`` lists first.

That makes ``hydra.compose`` work on this package's configuration in any program, without anything else to call.
"""

from dmm_exp.config.schema import register_for_all

register_for_all()
