"""The encoders that ``encoder`` chooses from."""

from __future__ import annotations

from typing import Any

from recbole_diffusion.layers.hstu import HSTU
from recbole_diffusion.layers.ligr import LiGR
from recbole_diffusion.layers.macaron import Macaron
from recbole_diffusion.layers.transformer import PackedTransformer


def named_encoder(name: str, settings: Any, n_layers: int, longest: int) -> PackedTransformer | LiGR | HSTU | Macaron:
    """An encoder of packed tokens.

    Args:
        name (str): ``sasrec``, ``ligr``, ``hstu`` or ``macaron``.
        settings (mapping): ``n_heads``, ``hidden_size``, ``inner_size``, ``hidden_dropout_prob``,
            ``attn_dropout_prob``, ``hidden_act`` and ``layer_norm_eps``. HSTU has no inner layer,
            and only sasrec and macaron have a choice of activation.
        n_layers (int): number of blocks.
        longest (int): length of the longest history.
    """
    heads, hidden, inner = settings["n_heads"], settings["hidden_size"], settings["inner_size"]
    dropouts = settings["hidden_dropout_prob"], settings["attn_dropout_prob"]
    eps = settings["layer_norm_eps"]
    if name == "hstu":
        return HSTU(n_layers, heads, hidden, longest, *dropouts, eps)
    if name == "ligr":
        return LiGR(n_layers, heads, hidden, inner, *dropouts, eps)
    if name == "macaron":
        return Macaron(n_layers, heads, hidden, inner, *dropouts, settings["hidden_act"], eps)
    return PackedTransformer(n_layers, heads, hidden, inner, *dropouts, settings["hidden_act"], eps)
