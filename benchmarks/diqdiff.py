"""DiQDiff: its contrast against the one by all pairs of vectors, with memory; training steps on beauty against the plain
padded version, the twin without diffusion, and DiffuRec. Each comparison in one run, processes in turn; processor time, which
other programs hardly change."""

import itertools
import statistics
import time

from common import in_fresh_process, package_step, parse, peak_mb, prepare, spread, time_steps

WIDTH, TAU = 128, 0.07


def contrasts(form, rows, rounds):
    """Seconds of the contrast of random vectors with its gradient, what memory it needs, and its value."""
    import plain_diqdiff as plain
    import torch

    from recbole_diffusion.layers.contrastive import info_nce

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vectors, target = torch.randn(rows, WIDTH, requires_grad=True), torch.arange(rows)
    info_nce(vectors[:2], vectors[:2], TAU).backward()  # what happens once in a process
    before, seconds = peak_mb(), []
    for _ in range(rounds):
        vectors.grad = None
        start = time.process_time()
        loss = info_nce(vectors, vectors, TAU) if form == "ours" else plain.repulsion(vectors, target, TAU, False)
        loss.backward()
        seconds.append(time.process_time() - start)
    return {"seconds": seconds, "memory": peak_mb() - before, "value": loss.item()}


def packed_steps(model, args, settings):
    """Steps of the package."""
    _, loaders, network, optimizer = prepare(model, "beauty", args, **settings)
    step = package_step(network, optimizer)
    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps), clock=time.process_time), "peak": peak_mb()}


def padded_steps(args):
    """The same steps written plainly, on rows of full length."""
    import plain_diqdiff as plain
    import torch
    import torch.nn.functional as F

    from recbole_diffusion.layers.codebook import gumbel_like

    _, loaders, network, optimizer = prepare("DiQDiff", "beauty", args)

    def step(batch):
        optimizer.zero_grad()
        items, target = batch[network.ITEM_SEQ], batch[network.ITEM_ID]
        items = F.pad(items, (0, network.max_seq_length - items.shape[1]))
        t = torch.randint(network.process.steps, target.shape)
        noise, gumbel = torch.randn(len(items), WIDTH), gumbel_like(torch.empty(len(items), network.codebook.n_codes))
        parts = plain.losses(network, items, batch[network.ITEM_SEQ_LEN], target, t, noise, gumbel, network._temperature())
        sum(parts.values()).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps), clock=time.process_time), "peak": peak_mb()}


if __name__ == "__main__":
    args = parse(__doc__, steps=8)
    for rows in (512, 1024):
        fast = in_fresh_process(contrasts, "ours", rows, 20)
        slow = in_fresh_process(contrasts, "all pairs", rows, 3)
        medians = [statistics.median(found["seconds"]) for found in (fast, slow)]
        print(f"contrast of {rows} vectors with gradient: {medians[0]:.4f} s, by all pairs {medians[1]:.3f} s: {medians[1] / medians[0]:.0f} times faster")
        print(f"  memory {fast['memory']:.0f} MB and {slow['memory']:.0f} MB, values differ by {abs(fast['value'] - slow['value']):.1e}")
    found = {
        "DiQDiff": in_fresh_process(packed_steps, "DiQDiff", args, {}),
        "padded": in_fresh_process(padded_steps, args),
        "twin": in_fresh_process(packed_steps, "DiQDiff", args, {"twin": True}),
        "DiffuRec": in_fresh_process(packed_steps, "DiffuRec", args, {}),
    }
    ours = statistics.median(found["DiQDiff"]["seconds"])
    for name, values in found.items():
        ratio = statistics.median(values["seconds"]) / ours
        print(f"{name}: training step {spread(values['seconds'])}, peak {values['peak']:.0f} MB, {ratio:.2f} of DiQDiff's time")
