"""What a comparison shows: tables, figures, advice, files."""
