"""The commands as functions that return data frames and figures; :mod:`recbole_diffusion` exports them."""
