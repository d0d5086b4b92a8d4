"""Figures of a finished page as files, for papers: ``python -m dmm_exp.export FOLDER``."""
