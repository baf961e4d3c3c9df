"""Seeded mutations of real files, and one guarded run of the command on them."""

import random
import signal
from contextlib import contextmanager

import torch

from recbole_diffusion.cli import main
from recbole_diffusion.training import trainer
from recbole_diffusion.training.tensorboard import no_tensorboard

SECONDS = 60  # for a case that takes a tenth of a second; more is a hang
CHARACTERS = ["\t", "\n", "\r\n", " ", ",", '"', "'", "#", ":", "-", "~", "[", "{", "\\"]
CHARACTERS += ["\0", "\x1a", "é", "中", "\ufeff"]
VALUES = ["", "0", "-1", "1.5", "1e999", "nan", "inf", "NA", "null", "~", "True", "[]", "{}", "i1", "u1", "1_0", "0x10"]
VALUES += ["[PAD]", "é", "a b", "x" * 300, "!!python/object/apply:os.getcwd []", "&a [*a]", "2024-01-01", "[1, 2"]
KINDS = ["character", "delete", "cell", "cell", "line", "lines", "truncate", "join", "header", "quotes"]


def mutate(text, separators, generator):
    """A damaged copy of a text.

    Args:
        text (str): a good file.
        separators (str): what stands between the cells of a line.
        generator (random.Random): source of all choices.

    Returns:
        bytes
    """
    lines = text.splitlines(keepends=True)
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        kind = generator.choice(KINDS)
        at = generator.randrange(len(lines)) if kind != "header" else 0
        line = lines[at]
        place = generator.randrange(len(line) + 1)
        if kind == "character":
            lines[at] = line[:place] + generator.choice(CHARACTERS) + line[place:]
        elif kind == "delete":
            lines[at] = line[:place] + line[place + generator.randint(1, 3) :]
        elif kind in ("cell", "header"):
            separator = generator.choice(separators)
            cells = line.rstrip("\n").split(separator)
            cells[generator.randrange(len(cells))] = generator.choice([*VALUES, *cells])
            lines[at] = separator.join(cells) + "\n"
        elif kind == "line":
            lines.insert(at, generator.choice([line, "\n", separators[0] * 2 + "\n", lines[0]]))
        elif kind == "lines":
            del lines[at : at + generator.choice([1, 2, 50, 10**6])]
        elif kind == "truncate":
            lines[at:] = [line[:place]]
        elif kind == "quotes":
            for number in (at, generator.randrange(len(lines))):
                lines[number] = lines[number].replace(separators[0], separators[0] + '"', 1)
        elif kind == "join":
            lines[at] = line.rstrip("\n")
        lines = lines or [""]
    data = bytearray("".join(lines).encode())
    if data and generator.random() < 0.1:
        data[generator.randrange(len(data))] = generator.randrange(128, 256)
    return bytes(data)


class Accepted(BaseException):
    """The command would now train; carries the trainer and its data."""

    def __init__(self, trainer, train_data, valid_data):
        self.trainer, self.train_data, self.valid_data = trainer, train_data, valid_data


@contextmanager
def guarded(monkeypatch):
    """Stop every training at its start, and every case that hangs."""

    def stop(self, train_data, valid_data=None, **kwargs):
        raise Accepted(self, train_data, valid_data)

    def hang(*args):
        raise TimeoutError(f"no end after {SECONDS} s")

    monkeypatch.setattr(trainer.EpochsMixin, "fit", stop)
    monkeypatch.setattr("recbole.trainer.trainer.get_tensorboard", no_tensorboard)
    before = signal.signal(signal.SIGALRM, hang)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(words, capsys):
    """Run the command; returns the exit code and one line of error, or ``("accepted", Accepted)``.

    Anything else, a traceback above all, is an assertion or the error itself.
    """
    signal.alarm(SECONDS)
    try:
        code = main(words)
    except Accepted as accepted:
        capsys.readouterr()
        return "accepted", accepted
    finally:
        signal.alarm(0)
    error = capsys.readouterr().err
    if code == 2:
        assert error.strip() and "Traceback" not in error
    return code, error


def works(accepted):
    """One step of training and one batch of evaluation: finite, padding aside."""
    network = accepted.trainer.model
    batch = next(iter(accepted.train_data)).to(network.device)
    losses = network.train().calculate_loss(batch)
    total = sum(losses) if isinstance(losses, tuple) else losses
    with torch.no_grad():
        evaluated = next(iter(accepted.valid_data))[0].to(network.device)
        scores = network.eval().full_sort_predict(evaluated).view(len(evaluated), -1)
    return bool(torch.isfinite(total)) and bool(torch.isfinite(scores[:, 1:]).all())


def generator(number):
    """Source of choices of one case."""
    return random.Random(number)
