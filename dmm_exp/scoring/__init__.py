"""Models that were made elsewhere, scored as runs are: ``dmm-exp score``."""
