"""DiffuRec on beauty against the plain padded version: training steps, sampling with 32 steps and with one, memory."""

import itertools
import statistics

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

CASES = [("DiffuRec", 50, 512), ("DiffuRec", 100, 512), ("DiffuRecSys", 100, 512)]


def load(model, length, batch, args, **settings):
    """A model that is ready to train, without weight decay."""
    return prepare(model, "beauty", args, MAX_ITEM_LIST_LENGTH=length, train_batch_size=batch, **settings)


def packed_steps(model, length, batch, args):
    """Training steps of the package."""
    _, loaders, network, optimizer = load(model, length, batch, args)

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb()}


def padded_steps(model, length, batch, args):
    """The same steps written plainly, on rows of full length."""
    import plain_diffurecsys as plain
    import torch
    import torch.nn.functional as F

    _, loaders, network, optimizer = load(model, length, batch, args)

    def step(batch):
        optimizer.zero_grad()
        items, target = batch[network.ITEM_SEQ], batch[network.ITEM_ID]
        items = F.pad(items, (0, length - items.shape[1]))
        t = torch.randint(network.process.steps, target.shape)
        noise, lambda_noise = torch.randn(len(items), network.noise.width), torch.randn(*items.shape, network.noise.width)
        plain.loss(network, items, target, t, noise, lambda_noise).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb()}


def packed_sampling(sampling_steps, args):
    """Scores of some batches of test users."""
    import torch

    _, loaders, network, _ = load("DiffuRec", 50, 512, args, sampling_steps=sampling_steps)
    network.eval()
    batches = [batch[0] for batch in itertools.islice(loaders[2], args.batches)]
    with torch.no_grad():
        return {"seconds": time_steps(network.full_sort_predict, batches, warm_up=1)}


def padded_sampling(args):
    """The same, written plainly, with 32 steps."""
    import plain_diffurecsys as plain
    import torch
    import torch.nn.functional as F

    from recbole_diffusion.diffusion.schedules import named_betas

    _, loaders, network, _ = load("DiffuRec", 50, 512, args)
    network.eval()
    betas, width = named_betas("trunc_lin", 32), network.noise.width

    class Fresh:
        def __init__(self, *shape):
            self.shape = shape

        def __getitem__(self, step):
            return torch.randn(self.shape)

    def step(batch):
        items = batch[network.ITEM_SEQ]
        items = F.pad(items, (0, 50 - items.shape[1]))
        noises, lambda_noises = Fresh(len(items), width), Fresh(*items.shape, width)
        found = plain.sample(network, items, betas, torch.randn(len(items), width), noises, lambda_noises)
        return found @ network.item_embedding.weight.t()

    batches = [batch[0] for batch in itertools.islice(loaders[2], 2)]
    with torch.no_grad():
        return {"seconds": time_steps(step, batches, warm_up=1)}


if __name__ == "__main__":
    args = parse(__doc__, steps=8, batches=6)
    for case in CASES:
        fast, slow = in_fresh_process(packed_steps, *case, args), in_fresh_process(padded_steps, *case, args)
        ratio = statistics.median(slow["seconds"]) / statistics.median(fast["seconds"])
        print(f"{case[0]}, L {case[1]}, batch {case[2]}: training step {spread(fast['seconds'])}, {ratio:.1f} times faster")
        print(f"  peak {fast['peak']:.0f} MB, padded {slow['peak']:.0f} MB")
    large = in_fresh_process(packed_steps, "DiffuRecSys", 100, 1024, args)
    print(f"DiffuRecSys, L 100, batch 1024: {spread(large['seconds'])}, peak {large['peak']:.0f} MB")
    full, one = (in_fresh_process(packed_sampling, steps, args) for steps in (32, 1))
    plain = in_fresh_process(padded_sampling, args)
    medians = [statistics.median(found["seconds"]) for found in (plain, full, one)]
    print(f"scoring 512 users, 32 steps: padded {medians[0]:.2f} s, packed {medians[1]:.2f} s, {medians[0] / medians[1]:.1f} times faster")
    print(f"one step: {medians[2]:.3f} s, {medians[1] / medians[2]:.1f} times faster again")
