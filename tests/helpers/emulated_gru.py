"""The step of a GRU that devices other than the CPU have in one kernel, and its gradient, from the equations."""

import torch

aten = torch.ops.aten


def cell(input_gates, hidden_gates, before, input_bias=None, hidden_bias=None):
    """The new state [B, hidden], and what its gradient needs."""
    if input_bias is not None:
        input_gates, hidden_gates = input_gates + input_bias, hidden_gates + hidden_bias
    (i_r, i_z, i_n), (h_r, h_z, h_n) = input_gates.chunk(3, 1), hidden_gates.chunk(3, 1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    return (n + z * (before - n)).contiguous(), torch.cat([r, z, n, before, h_n], 1)


def cell_backward(grad, kept, has_bias):
    """Gradients of both sums of gates, of the state before and of the biases."""
    r, z, n, before, h_n = kept.chunk(5, 1)
    dz, dn = grad * (before - n) * z * (1 - z), grad * (1 - z) * (1 - n**2)
    dr = dn * h_n * r * (1 - r)
    of_input, of_hidden = torch.cat([dr, dz, dn], 1), torch.cat([dr, dz, dn * r], 1)
    biases = (of_input.sum(0), of_hidden.sum(0)) if has_bias else (None, None)
    return of_input, of_hidden, (grad * z).contiguous(), *biases


KERNELS = {aten._thnn_fused_gru_cell.default: cell, aten._thnn_fused_gru_cell_backward.default: cell_backward}
