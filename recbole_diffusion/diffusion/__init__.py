"""Noise schedules and diffusion processes in plain PyTorch. Nothing here knows RecBole."""
