"""Building blocks that several systems share."""
