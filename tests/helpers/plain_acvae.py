"""ACVAE written plainly: padded rows of full length through GRU and convolution, dense softmax with its bias, loops over rows.

It reads the weights of a packed model, which has to give the same values and gradients.
"""

import torch
import torch.nn.functional as F


def noised(layer, u, noise):
    return u if layer is None else u + torch.tanh(noise @ layer.noise.weight.t() + layer.noise.bias)


def latents(model, item_seq, noise):
    """Vectors of items, states of the GRU and latent vectors: [B, L, .] each. noise: two tensors [B, L, gru_size]."""
    p = model.posterior
    x = model.item_embedding(item_seq)
    states, (size, width) = p.gru(x.transpose(0, 1))[0].transpose(0, 1), (p.kernel_size, p.first.out_features)
    a = noised(p.noisy_layer, F.softplus(p.first(noised(p.noisy_layer, states, noise[0]))), noise[1])
    kernel = p.convolution.weight.view(2 * width, size, width).transpose(1, 2)
    seen = F.conv1d(F.pad(a.transpose(1, 2), (size - 1, 0)), kernel, p.convolution.bias).transpose(1, 2)
    return x, states, p.out(states + F.softplus(p.second(F.softplus(seen))))


def prior_critic(critic, context, z):
    n = critic.enter(torch.cat([context, z], -1))
    for first, second in critic.inner:
        n = F.elu(n + second(first(n)))
    return critic.leave(n) + z**2 / 2


def contrast_critic(critic, context, z):
    seen = torch.cat([context, z], -1).transpose(0, 1)
    return critic.out(F.gelu(critic.gru(seen)[0])).squeeze(-1).t()


def logits(model, z):
    return torch.tanh(model.decode(z)) @ model.output.weight.t() + model.output.bias


def loss_parts(model, item_seq, lengths, target, noise, other, prior):
    """The weighted parts. other: [B, L, latent_size] latent vectors of others; prior: [B, L, latent_size] normals."""
    config, mask = model.config, item_seq > 0
    x, states, z = latents(model, item_seq, noise)
    context = x if config["critic_context"] == "items" else states
    surprise = []
    for row, length in enumerate(lengths.tolist()):
        following = [*item_seq[row, 1:length].tolist(), int(target[row])]
        for place, item in enumerate(following):
            surprise.append(-logits(model, z[row, place])[1:].log_softmax(0)[item - 1])
    parts = {"recommendation": torch.stack(surprise).mean()}
    parts["kl"] = config["kl_weight"] * prior_critic(model.prior_critic, context, z)[mask].mean()
    own, foreign = (
        contrast_critic(model.contrast_critic, context, z),
        contrast_critic(model.contrast_critic, context, other(z)),
    )
    contrast = -torch.log(torch.sigmoid(own)) - torch.log(1 - torch.sigmoid(foreign))
    parts["contrast"] = config["contrast_weight"] * contrast[mask].mean()
    context, z = context.detach(), z.detach()
    real, fake = (torch.sigmoid(prior_critic(model.prior_critic, context, v)) for v in (z, prior))
    parts["prior_critic"] = (-torch.log(real) - torch.log(1 - fake))[mask].mean()
    return parts
