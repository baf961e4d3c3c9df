"""Building blocks in plain PyTorch: packed Transformer, losses. Nothing here knows RecBole."""
