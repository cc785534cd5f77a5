"""What a comparison measures: contestants, tasks, references, and rows."""
