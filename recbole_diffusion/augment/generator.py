r"""The generator of DiffuASR.

Reference:
    Qidong Liu, Fan Yan, Xiangyu Zhao, Zhaocheng Du, Huifeng Guo, Ruiming Tang, Feng Tian. "Diffusion Augmentation for
    Sequential Recommendation." CIKM 2023.

It learns on long histories to restore their first M items from the rest, and then makes M items for every history.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.diffusion.gaussian import GaussianProcess
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise
from recbole_diffusion.diffusion.noise_prediction import ddim_weights, strided_timesteps
from recbole_diffusion.diffusion.schedules import linear_betas
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.su_net import FlatDenoiser, SUNet
from recbole_diffusion.layers.top_items import top_items


class Generator(nn.Module):
    """Diffusion of M item vectors at once, conditioned on a history.

    Args:
        settings (dict): see ``properties/augment/DiffuASR.yaml``; and ``seed``.
        table (torch.Tensor): [V, d] item vectors, row 0 is padding.
        classifier (callable, optional): takes vectors [B, M, d] and items [B], returns the gradient by the vectors of the
            log probability that the items follow.

    Raises:
        UsageError: for a schedule or a width that there cannot be.
    """

    def __init__(self, settings, table, classifier=None):
        super().__init__()
        self.settings, self.classifier = settings, classifier
        length, width = settings["pseudo_length"], table.shape[1]
        try:
            betas = linear_betas(settings["diffusion_steps"], settings["beta_start"], settings["beta_end"])
            self.timesteps = strided_timesteps(settings["diffusion_steps"], settings["sampling_steps"])
            network = SUNet if settings["network"] == "sunet" else FlatDenoiser
            self.network = network(length, width, settings["dropout"])
        except ValueError as error:
            raise UsageError(
                f"{error} (network: mlp takes any width)" if "squares" in str(error) else str(error)
            ) from None
        self.process = GaussianProcess(betas)
        self.state, self.noise_weight = ddim_weights(betas, self.timesteps)
        self.nobody = nn.Parameter(torch.zeros(width))  # the condition of nobody in particular
        self.table = nn.Parameter(table.clone(), requires_grad=settings["item_vectors"] == "trainable")
        self.random = KeyedNoise(settings["seed"], length * width)
        self.strength = settings["guidance_strength"] if settings["guidance"] != "none" else 0.0

    # Training

    def loss(self, target, condition, label, random):
        """Mean squared error of the predicted noise.

        Args:
            target (torch.LongTensor): [B, M] the first items of long histories.
            condition (Histories): what follows them.
            label (torch.LongTensor): [B] the first items of these.
            random (torch.Generator): of the CPU, for time steps, noise and dropped conditions.

        Returns:
            torch.Tensor: [].
        """
        clean, vector = self.table[target], condition.vectors(self.table, self.settings["condition"])
        rows, device, official = len(clean), clean.device, self.settings["official_guidance"]
        half = torch.randint(self.process.steps, (rows - rows // 2,), generator=random)
        t = torch.cat([half, self.process.steps - 1 - half])[:rows].to(device)  # antithetic
        noise = torch.randn(clean.shape, generator=random).to(device)
        if self.strength and self.settings["guidance"] == "free" and not official:
            dropped = torch.rand(rows, 1, generator=random).to(device) < self.settings["drop_condition_prob"]
            vector = torch.where(dropped, self.nobody, vector)
        noised = self.process.add_noise(clean, noise, t[:, None].expand(rows, clean.shape[1]))
        return F.mse_loss(self.predict(noised, t, vector, label, guided=official), noise)

    def predict(self, x, t, vector, label, guided=True):
        """Predicted noise.

        Args:
            x (torch.Tensor): [B, M, d] noised vectors.
            t (torch.LongTensor): [B] time steps.
            vector (torch.Tensor): [B, d] conditions.
            label (torch.LongTensor): [B] items to guide the classifier to.
            guided (bool): whether guidance counts.

        Returns:
            torch.Tensor: [B, M, d].
        """
        noise = self._unguided(x, t, vector)
        if not guided or not self.strength:
            return noise
        if self.settings["guidance"] == "free":
            return (1 + self.strength) * noise - self.strength * self._unguided(x, t, self.nobody.expand_as(vector))
        gradient = self.classifier(x.detach(), label)
        if self.settings["official_guidance"]:  # a constant, and a loss where the paper has a probability
            return noise + self.strength * self.process.noise[0] * gradient
        return noise - self.strength * self.process.noise[t][:, None, None] * gradient

    def _unguided(self, x, t, vector):
        """With ``noise_skip`` the network adds to what the noise would be of white vectors, ``sqrt(1 - abar_t) x_t``.

        The networks are narrower than M d numbers, and could not hand the noise through.
        """
        noise = self.network(x, t, vector)
        return noise + self.process.noise[t][:, None, None] * x if self.settings["noise_skip"] else noise

    # Generation

    @torch.no_grad()
    def generate(self, histories):
        """Vectors of pseudo items, whatever other users are in the batch. histories: Histories -> [B, M, d]."""
        vector = histories.vectors(self.table, self.settings["condition"])
        label = histories.last() if self.settings["official_guidance"] else histories.first(1)[:, 0]
        label, device = label.to(vector.device), vector.device
        x = self.random(histories.users.to(device)).unflatten(1, (-1, vector.shape[1]))
        for t, state, noise in zip(self.timesteps, self.state, self.noise_weight):
            x = state * x + noise * self.predict(x, torch.full(label.shape, t, device=device), vector, label)
        return x

    @torch.no_grad()
    def round(self, vectors):
        """The items nearest to vectors by angle.

        Args:
            vectors (torch.Tensor): [..., d].

        Returns:
            tuple: items [...], never padding, and the cosines [...].
        """
        table, flat = F.normalize(self.table, dim=1), F.normalize(vectors, dim=-1).flatten(0, -2)
        items = top_items(flat, table, 1)[:, 0]
        return items.view(vectors.shape[:-1]), (flat * table[items]).sum(1).view(vectors.shape[:-1])


class RecommenderAsClassifier:
    """Log probability of the next item by a trained recommender that reads vectors instead of items.

    Args:
        model (nn.Module): with ``item_embedding``; its users are vectors whose products with it are scores.
        scale (torch.Tensor): [d] by which the generator's vectors are to be multiplied to be the model's.
    """

    def __init__(self, model, scale):
        self.model, self.scale = model.eval(), scale
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._users = getattr(model, "encode", model.forward)

    def __call__(self, vectors, items):
        """Gradient by the vectors. vectors: [B, M, d]; items: [B] -> [B, M, d]."""
        rows, length, _ = vectors.shape
        ids = torch.ones(rows, length, dtype=torch.long, device=vectors.device)  # any items: their vectors are replaced
        with torch.enable_grad():
            vectors = vectors.detach().requires_grad_()
            replaced = vectors * self.scale
            embedding = self.model.item_embedding
            hook = embedding.register_forward_hook(lambda module, ids, output: replaced.reshape(output.shape))
            try:
                users = self._users(ids, torch.full((rows,), length, device=vectors.device))
            finally:
                hook.remove()
            scores = users @ embedding.weight[1:].t()
            chosen = scores.log_softmax(1).gather(1, items[:, None] - 1).sum()
            return torch.autograd.grad(chosen, vectors)[0]
