"""The learning rate falls in steps, and a resumed run goes on where it stood."""

import pytest

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.trainer import trainer_class

SMALL = {"hidden_size": 8, "inner_size": 16, "n_blocks": 1, "n_heads": 1, "sampling_steps": 1, "eval_step": 1}


@pytest.fixture
def train(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")

    def start(**settings):
        config = make_config("DiffuRec", folder, **{**SMALL, "learning_rate": 0.01, **settings})
        loaders = build_loaders(config, create_dataset(config))
        return trainer_class(config)(config, build_model(config, loaders[0])), loaders

    return start


def rate(trainer):
    return trainer.optimizer.param_groups[0]["lr"]


def test_the_rate_is_multiplied_every_so_many_epochs(train):
    rates = []
    trainer, loaders = train(epochs=5, lr_decay_step=2, lr_decay_gamma=0.5)
    trainer.fit(loaders[0], loaders[1], callback_fn=lambda epoch, score: rates.append(rate(trainer)))
    assert rates == pytest.approx([0.01, 0.005, 0.005, 0.0025, 0.0025])


def test_without_steps_the_rate_stays(train):
    trainer, loaders = train(epochs=2, lr_decay_step=0)
    trainer.fit(loaders[0], loaders[1])
    assert rate(trainer) == 0.01 and trainer.scheduler is None


def test_the_schedule_is_part_of_the_checkpoint(train):
    trainer, loaders = train(epochs=3, lr_decay_step=2, lr_decay_gamma=0.5)
    trainer.fit(loaders[0], loaders[1])
    trainer._save_checkpoint(2)
    resumed, loaders = train(epochs=5, lr_decay_step=2, lr_decay_gamma=0.5)
    resumed.resume_checkpoint(trainer.saved_model_file)
    assert rate(resumed) == pytest.approx(0.005)
    resumed.fit(loaders[0], loaders[1])  # epochs 3 and 4: one more step after the fourth
    assert rate(resumed) == pytest.approx(0.0025)


def rates_of_steps(trainer, loaders):
    """The rate that the optimizer has at each of its steps."""
    rates = []
    trainer.optimizer.register_step_pre_hook(lambda *_: rates.append(rate(trainer)))
    trainer.fit(loaders[0], loaders[1])
    return rates


WARM = {"lr_warmup_steps": 20, "lr_decay_step": 2, "lr_decay_gamma": 0.5, "train_batch_size": 16}


def test_the_rate_rises_over_the_first_steps(train):
    trainer, loaders = train(epochs=4, **WARM)
    rates, steps = rates_of_steps(trainer, loaders), len(loaders[0])
    assert 1 < steps < 20 < 2 * steps
    decay = [0.01 * 0.5 ** (step // (2 * steps)) for step in range(4 * steps)]
    assert rates == pytest.approx([rate * min(1, (step + 1) / 20) for step, rate in enumerate(decay)])
    assert rate(trainer) == pytest.approx(0.0025)  # the scheduler's, at its own pace


def test_a_resumed_run_goes_on_with_the_rise(train):
    whole, loaders = train(epochs=2, **WARM)
    expected = rates_of_steps(whole, loaders)
    first, loaders = train(epochs=1, **WARM)
    rates = rates_of_steps(first, loaders)
    first._save_checkpoint(0)
    second, loaders = train(epochs=2, **WARM)
    second.resume_checkpoint(first.saved_model_file)
    assert rates + rates_of_steps(second, loaders) == expected
