"""Data: index-based sequences, loaders, preparation and checks of atomic files."""
