"""Tables and comparisons over finished runs."""
