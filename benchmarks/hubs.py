"""Which training sessions a trained DiffSBR retrieves for the test sessions: how many different ones, how alike, how long."""

import argparse
from collections import Counter

import torch
import torch.nn.functional as F
from common import ROOT  # noqa: F401  puts the package on the path

from recbole_diffusion import load_data_and_model

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data_path", default="dataset")
    args = parser.parse_args()
    _, model, _, _, _, test_data = load_data_and_model(args.checkpoint, data_path=args.data_path)
    found, cosines = Counter(), []
    with torch.no_grad():
        for batch, *_ in test_data:
            tables = model.eval().item_tables()
            sessions, _ = model._represent(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], tables)
            bank = model.encoded_bank()
            nearest = model.scorer.nearest(sessions, bank.index, model.config["k_neighbors"])
            found.update(nearest.flatten().tolist())
            cosines.append(F.cosine_similarity(sessions.unsqueeze(1), bank.vectors[nearest], dim=-1).flatten())
    top, lengths = found.most_common(10), bank.vectors.norm(dim=1)
    searches = sum(found.values())
    print(f"{len(found):,} of {len(bank.vectors):,} sessions are found by {searches:,} searches")
    print(f"the ten most frequent make up {sum(n for _, n in top) / searches:.0%}")
    print(f"mean cosine to the session {torch.cat(cosines).mean():.2f}")
    shares = ", ".join(f"{lengths[number] / lengths.median():.1f}" for number, _ in top)
    print(f"their lengths relative to the median one: {shares}")
