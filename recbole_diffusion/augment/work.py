"""The two long parts of ``augment``, each of which goes on where it was stopped: training and generation."""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from recbole_diffusion.augment.histories import Histories
from recbole_diffusion.errors import UsageError

DRAWS = 8  # of time steps and noise for every held-out user
MOST_HELD_OUT = 512  # more would make a look longer and the loss no surer


@dataclass(frozen=True)
class Pairs:
    """Long histories cut in two: the first M items, which the generator restores, and the rest, from which it does."""

    target: torch.Tensor  # [Q, M]
    rest: Histories

    def __len__(self):
        return len(self.rest)

    def choose(self, rows):
        """Some of the pairs: rows [R] -> what :meth:`Generator.loss` takes."""
        rest = self.rest.choose(rows)
        return self.target[rows], rest, rest.first(1)[:, 0]


def make_pairs(histories, length, fewest):
    """Pairs of all users with more than M + 2 training items.

    Args:
        histories (Histories): of the training part.
        length (int): M.
        fewest (int): how many are needed.

    Returns:
        Pairs

    Raises:
        UsageError: for too few.
    """
    rows = (histories.lengths > length + 2).nonzero().squeeze(1)
    if len(rows) < fewest:
        raise UsageError(
            f"{len(rows)} users have more than {length + 2} training items, of which the generator learns; min_pairs is "
            f"{fewest}: lower pseudo_length (now {length}), or min_pairs"
        )
    return Pairs(histories.choose(rows).first(length), histories.choose(rows, skip=length))


def split_pairs(pairs, share, seed):
    """Rows to learn from and held-out rows, both at least one: LongTensors."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    count = min(max(1, round(share * len(pairs))), len(pairs) - 1, MOST_HELD_OUT)
    return order[count:], order[:count]


class Training:
    """Training of a generator in rounds, after each of which all that matters is kept.

    The random numbers of a step depend on the seed and the number of the step alone.

    Args:
        generator (Generator): ends with the best of its weights.
        pairs (Pairs): of all long histories.
        settings (dict): see ``properties/augment/DiffuASR.yaml``; and ``seed``.
        store (Store): where the state is kept.
        say (callable): takes a line.
    """

    def __init__(self, generator, pairs, settings, store, say):
        self.generator, self.pairs, self.settings, self.store, self.say = generator, pairs, settings, store, say
        self.rows, self.held_out = split_pairs(pairs, settings["held_out"], settings["seed"])
        self.optimizer = torch.optim.Adam(
            [p for p in generator.parameters() if p.requires_grad], lr=settings["learning_rate"]
        )
        self.steps, self.best, self.waited, self.best_weights = 0, math.inf, 0, None

    def run(self):
        """Train until the held-out loss no longer falls. Returns what results say of it: a dict."""
        self._go_back()
        while self.steps < self.settings["train_steps"] and self.waited < self.settings["patience"]:
            loss = self._round()
            found = self._held_out_loss()
            if not math.isfinite(found):
                raise UsageError(
                    f"the loss of the generator is no number after {self.steps} steps: lower learning_rate"
                )
            better = found < self.best
            if better:
                self.best, self.best_weights = found, self._weights()
            self.waited = 0 if better else self.waited + 1
            self._keep()
            mark = " *" if better else ""
            self.say(
                f"step {self.steps} of {self.settings['train_steps']}   loss {loss:.4f}   held out {found:.4f}{mark}"
            )
        self.generator.load_state_dict(self.best_weights, strict=False)
        return {"pairs": len(self.pairs), "steps": self.steps, "held_out_loss": round(self.best, 6)}

    def _round(self):
        """Steps up to the next look at the held-out users; returns their mean loss."""
        self.generator.train()
        last = min(self.settings["train_steps"], self.steps + self.settings["check_every"])
        total, number = 0.0, last - self.steps
        while self.steps < last:
            random = torch.Generator().manual_seed(self.settings["seed"] * 1_000_003 + self.steps)
            rows = self.rows[torch.randperm(len(self.rows), generator=random)[: self.settings["batch_size"]]]
            torch.manual_seed(int(torch.randint(2**31, (), generator=random)))  # of dropout
            self.optimizer.zero_grad()
            loss = self.generator.loss(*self._on_device(rows), random)
            loss.backward()
            self.optimizer.step()
            total, self.steps = total + loss.item(), self.steps + 1
        return total / number

    def _on_device(self, rows):
        target, rest, label = self.pairs.choose(rows)
        device = self.generator.table.device
        return target.to(device), rest, label.to(device)

    @torch.no_grad()
    def _held_out_loss(self):
        self.generator.eval()
        random = torch.Generator().manual_seed(self.settings["seed"])
        return self.generator.loss(*self._on_device(self.held_out.repeat(DRAWS)), random).item()

    def _weights(self):
        """What is trained, apart from a frozen table."""
        trained = {name for name, p in self.generator.named_parameters() if p.requires_grad}
        return {name: value.clone() for name, value in self.generator.state_dict().items() if name in trained}

    def _keep(self):
        state = {
            "weights": self._weights(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
        }
        state.update(steps=self.steps, best=self.best, waited=self.waited)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.store.put("training", buffer.getvalue())

    def _go_back(self):
        kept = self.store.get("training")
        if kept is None:
            return
        state = torch.load(io.BytesIO(kept), map_location=self.generator.table.device, weights_only=True)
        self.generator.load_state_dict(state["weights"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights, self.steps, self.best, self.waited = (
            state[name] for name in ("best_weights", "steps", "best", "waited")
        )
        self.say(f"going on after step {self.steps}")


def generate(generator, histories, batch, store, show_progress):
    """Pseudo items of histories; every batch is kept when it is done.

    Args:
        generator (Generator): trained.
        histories (Histories): of U users.
        batch (int): users at once.
        store (Store): where finished batches are.
        show_progress (bool): show a bar.

    Returns:
        tuple: item numbers int32 [U, M] and the cosines to the generated vectors float32 [U, M].
    """
    generator.eval()
    rows = torch.arange(len(histories)).split(batch)
    items, cosines = [], []
    for number, some in enumerate(tqdm(rows, "generated", leave=False, disable=not show_progress)):
        key, shape = f"batch {number}", (len(some), -1)
        kept = store.get(key)
        if kept is None:
            found, cosine = generator.round(generator.generate(histories.choose(some)))
            kept = found.cpu().numpy().astype("<i4").tobytes() + cosine.cpu().numpy().astype("<f4").tobytes()
            store.put(key, kept)
        items.append(np.frombuffer(kept[: len(kept) // 2], "<i4").reshape(shape))
        cosines.append(np.frombuffer(kept[len(kept) // 2 :], "<f4").reshape(shape))
    return np.concatenate(items), np.concatenate(cosines)


class Store:
    """A part of a :class:`recbole_diffusion.prepare.result_cache.Cache`: the results under one fingerprint.

    Args:
        cache (Cache): the file.
        fingerprint (str): of all that the results depend on.
    """

    def __init__(self, cache, fingerprint):
        self._cache, self._fingerprint = cache, fingerprint

    def get(self, name):
        """The bytes under a name, or None."""
        return self._cache.get(self._cache.key(self._fingerprint, name))

    def put(self, name, value):
        """Keep bytes under a name."""
        self._cache.put({self._cache.key(self._fingerprint, name): value})
