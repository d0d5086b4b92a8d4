"""What lies in a folder of artifacts: listed, explained, verified, and pruned of what no run needs."""
