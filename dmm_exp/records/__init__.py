"""What deletions leave on the disk: networks, records, ledgers, pools; they are read, signed, verified and purged."""
