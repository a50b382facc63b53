"""Second stage: records to representations, cached by content."""
