"""What a person sees after a run: tables, figures, one HTML page, and tracked runs."""
