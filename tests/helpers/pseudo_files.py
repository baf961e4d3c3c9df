"""Files of pseudo items that no generator made."""

import numpy as np

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.pseudo_items import PseudoItems, default_file, histories_hash, save_pseudo_items
from recbole_diffusion.testing import make_config


def write_pseudo_items(folder, items, name="cycle", path=None, **meta):
    """Write pseudo items for the data of :func:`recbole_diffusion.testing.write_sequences`.

    Args:
        folder (str): of the data.
        items (dict): user number of ``write_sequences`` -> numbers of its items, as many for each.
        meta: other values of the description.

    Returns:
        Path: the file, at its default place unless ``path`` says otherwise.
    """
    data = create_dataset(make_config("SASRec", folder, name))
    tokens = data.field2id_token["item_id"][1:].astype(str)
    place = {token: number for number, token in enumerate(tokens)}
    rows = np.array([[place[f"i{item}"] for item in row] for row in items.values()])
    described = {"dataset": name, "fingerprint": "0123456789ab", "settings": {"guide_from": "train"}}
    described.update(histories=histories_hash(data.build()[0]), **meta)
    path = path or default_file(folder, name)
    save_pseudo_items(path, PseudoItems(np.array([f"u{user}" for user in items]), tokens, rows, described))
    return path
