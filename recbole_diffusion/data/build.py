"""From settings to a data set."""

import logging

import pandas
import recbole.data.dataset
from recbole.data.dataset import SequentialDataset

from recbole_diffusion.data.dataset import SequenceDataset
from recbole_diffusion.data.filters import ExactFilters
from recbole_diffusion.data.ready_made import ReadyMadeSplits
from recbole_diffusion.errors import UsageError


def create_dataset(config):
    """The plugin's data set, or RecBole's own class for the few models that need one.

    Raises:
        UsageError: see :class:`SequenceDataset`.
    """
    if int(pandas.__version__.split(".")[0]) >= 3:
        raise UsageError(
            f"pandas {pandas.__version__} leaves missing values in RecBole's data without a word: pip install 'pandas<3'"
        )
    stock = stock_class(config)
    if config["augmented"] and stock is not SequentialDataset:
        raise UsageError(f"augmented is for models that read histories alone, {config.model} has data of its own: remove it")
    try:
        # Not RecBole's create_dataset, which unpickles what it finds in the folder of the checkpoints.
        dataset = dataset_class(stock)(config)
    except KeyError as error:
        raise UsageError(f"a setting names '{error.args[0]}', which the data do not have") from error
    except ValueError as error:  # RecBole's own refusals; UsageError is one as well
        raise error if isinstance(error, UsageError) else UsageError(str(error).splitlines()[0]) from error
    logging.getLogger().info(dataset)
    return dataset


def stock_class(config):
    """RecBole's class of data for a model. The name is no setting that is looked up: other models may have the same data."""
    return getattr(recbole.data.dataset, config.model + "Dataset", SequentialDataset)


def dataset_class(stock):
    """The plugin's data set instead of RecBole's sequential one; its special ones with the plugin's filters and splits."""
    if stock is SequentialDataset:
        return SequenceDataset
    return type(stock.__name__, (ExactFilters, ReadyMadeSplits, stock), {})


def check_against_data(config, data):
    """Raise UsageError when a cut-off exceeds the number of items."""
    items = data.item_num - 1
    if max(config["topk"]) > items:
        raise UsageError(f"topk {max(config['topk'])} is larger than the number of items, {items}")
