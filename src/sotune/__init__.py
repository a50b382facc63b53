"""sotune."""
