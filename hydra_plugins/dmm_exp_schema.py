"""Hydra looks in ``hydra_plugins`` whenever it starts; so it knows the types that ``conf/config.yaml`` lists first,
and the experiments in the tables of ``conf/experiment``.

That makes ``hydra.compose`` work on this package's configuration in any program, without anything else to call.
"""

from dmm_exp.config.folders import config_directory
from dmm_exp.config.schema import register_for_all
from dmm_exp.config.tables import register_tables

register_for_all()
register_tables(config_directory())
