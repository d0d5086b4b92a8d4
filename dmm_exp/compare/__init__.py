"""Many finished runs side by side: means over repetitions, ranks, and paired tests between methods."""
