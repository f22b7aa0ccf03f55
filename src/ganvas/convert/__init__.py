"""Official weights to ours: one declarative table of keys per release."""
