"""Data sets with generated items: the generator, its training and what it writes."""
