"""Machine unlearning experiments: datamodel matching, refined forget sets, and the baselines, on one evaluation."""

__version__ = "0.1.0"
