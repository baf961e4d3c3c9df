"""What saved checkpoints say about groups of users and about the space of their embeddings."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from recbole_diffusion.data.examples import TARGET, USER_START
from recbole_diffusion.errors import UsageError
from recbole_diffusion.quick_start import load_data_and_model
from recbole_diffusion.reports.significance import user_values
from recbole_diffusion.training.evaluation import evaluate_both_protocols
from recbole_diffusion.training.trainer import evaluating_trainer

HEAD_SHARE = 0.2  # the most frequent fifth of the items, as in the papers on long tails
CLUSTERS = 6
OWN_ITEMS = 2  # fewer are no group
PERPLEXITY = 30
Z = 1.96  # of a 95 % interval


@dataclass
class RankedUsers:
    """The test part of a data set under one checkpoint.

    Attributes:
        ranks (np.ndarray): [n] place of each target among the best ``longest`` items, 0 outside; history not masked.
        longest (int): length of the lists.
        who (np.ndarray): [2, n] numbers of users and targets.
        lengths (np.ndarray): [n] items of the whole history.
        in_head (np.ndarray): [n] whether the target is one of the most frequent items of the training part.
    """

    ranks: np.ndarray
    longest: int
    who: np.ndarray
    lengths: np.ndarray
    in_head: np.ndarray


@dataclass
class Cloud:
    """Vectors to draw.

    Attributes:
        vectors (np.ndarray): [n, d] of unit length.
        names (list[str]): tokens of users or items.
        groups (list[str]): what colours a point, or nothing.
        note (str): what the space itself says, for the title.
    """

    vectors: np.ndarray
    names: list
    groups: list
    note: str


def rank_test_part(path, data_path=None, trust_checkpoint=False):
    """Rank the test part under a checkpoint.

    Args:
        path (Path): checkpoint.
        data_path, trust_checkpoint: see ``load_data_and_model``.

    Returns:
        RankedUsers: of all test examples.

    Raises:
        UsageError: see ``load_data_and_model``, and when the data or metrics give no ranks.
    """
    config, model, data, train, _, test = load_data_and_model(str(path), data_path, trust_checkpoint)
    trainer = evaluating_trainer(config, model, train)
    ranks = evaluate_both_protocols(config, trainer, test, load_best_model=False)[1][False]
    part = test._dataset
    if TARGET not in part.inter_feat:
        raise UsageError(f"'{path}' gives no rank per user: it needs a data set of the plugin's class")
    rows = part.inter_feat
    targets = rows[data.iid_field].numpy()
    lengths = (rows[TARGET] - rows[USER_START]).numpy()
    who = np.stack([rows[data.uid_field].numpy(), targets])
    return RankedUsers(ranks, max(config["topk"]), who, lengths, head_items(train._dataset)[targets])


def head_items(part):
    """Whether each item is one of the most frequent ``HEAD_SHARE`` of the training part: [V], the padding is not."""
    longest = part.copy(part.longest_examples())
    items = longest.history(np.arange(len(longest)))[1]
    counts = torch.bincount(torch.cat([items, longest.inter_feat[part.iid_field]]), minlength=part.item_num)[1:]
    head = torch.zeros(part.item_num, dtype=torch.bool)
    order = counts.argsort(descending=True, stable=True)
    head[order[: math.ceil(HEAD_SHARE * len(counts))] + 1] = True
    return head.numpy()


def same_users(parts):
    """Whether all checkpoints were ranked on the same users and targets."""
    return all(np.array_equal(part.who, parts[0].who) for part in parts)


def length_edges(lengths, count):
    """Largest lengths of ``count`` groups of about equal number; fewer where many lengths are equal."""
    return np.unique(np.quantile(lengths, np.arange(1, count + 1) / count, method="inverted_cdf")).astype(int)


def by_length(part, edges):
    """Groups of users by length of history: name -> [n] booleans. What is longer than the last edge joins the last."""
    groups, low = {}, int(part.lengths.min())
    for edge in edges:
        is_last = edge == edges[-1]
        inside = (part.lengths >= low) & ((part.lengths <= edge) | is_last)
        groups[str(low) if low >= edge else f"{low}–{edge}"] = inside
        low = int(edge) + 1
    return groups


def by_popularity(part):
    """Groups of users by popularity of their target: name -> [n] booleans."""
    return {f"head (top {HEAD_SHARE:.0%})": part.in_head, "tail": ~part.in_head}


def metric_by_group(part, groups, metric):
    """Mean of a metric in every group.

    Args:
        part (RankedUsers): ranks.
        groups (dict[str, np.ndarray]): name -> [n] booleans.
        metric (str): such as ``hit@10``.

    Returns:
        list[dict]: group, users, metric, mean, standard_error, and low and high of :func:`interval`.

    Raises:
        UsageError: for a metric that the ranks do not give.
    """
    values = user_values({"ranks": part.ranks[None], "longest": part.longest}, metric)
    if values is None:
        raise UsageError(f"unknown metric '{metric}': groups have hit, recall, ndcg, mrr, map up to @{part.longest}")
    found = []
    for name, inside in groups.items():
        few = values[inside]
        error = few.std(ddof=1) / math.sqrt(len(few)) if len(few) > 1 else 0.0
        mean = float(few.mean()) if len(few) else 0.0
        low, high = interval(few)
        found.append({"group": name, "users": len(few), "metric": metric, "mean": mean, "standard_error": float(error),
                      "low": low, "high": high})  # fmt: skip
    return found


def interval(values):
    """The 95 % interval of a mean of values from 0 to 1, which it does not leave.

    Args:
        values (np.ndarray): [n]; of hits and misses alone, Wilson's interval is taken, which also holds where all are
            equal; of others the normal one, cut.

    Returns:
        tuple[float, float]: its ends; 0 and 1 without values.
    """
    n = len(values)
    if n == 0:
        return 0.0, 1.0
    mean = float(values.mean())
    if np.isin(values, (0, 1)).all():
        centre, spread = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n), mean * (1 - mean) / n + Z**2 / (4 * n**2)
        half = Z * math.sqrt(spread) / (1 + Z**2 / n)
    else:
        centre, half = mean, Z * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 1.0
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))  # rounding leaves the mean inside


def sequence_cloud(loaded, points, users, seed):
    """Vectors of test users, coloured by cluster (k-means).

    Args:
        loaded (tuple): what ``load_data_and_model`` returned.
        points (int): most points.
        users (int): is for :func:`item_cloud`.
        seed (int): of the choice of points.

    Raises:
        UsageError: for a model without a vector per history.
    """
    from sklearn.cluster import KMeans

    config, model, data, *_, test = loaded
    part = test._dataset
    chosen = choose(len(part), points, seed)
    batch = part[chosen].to(config["device"])
    encode = getattr(model, "encode", None) or model.forward
    with torch.no_grad():
        try:
            found = encode(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
        except TypeError:
            raise UsageError(f"{config['model']} has no vector of a history to draw: use --what=items") from None
    vectors = unit(found.view(len(chosen), -1).cpu().numpy())
    labels = KMeans(min(CLUSTERS, len(chosen) - 1), n_init=3, random_state=seed).fit_predict(vectors)
    names = [str(data.field2id_token[data.uid_field][i]) for i in batch[data.uid_field].cpu()]
    return make_cloud(vectors, names, [f"cluster {label + 1}" for label in labels])


def item_cloud(loaded, points, users, seed):
    """Vectors of items: those in the histories of some test users, coloured by user, and others in grey.

    Args:
        loaded, points, seed: see :func:`sequence_cloud`.
        users (int): users whose items are coloured.

    Raises:
        UsageError: for a model without an item table.
    """
    config, model, data, *_, test = loaded
    table = getattr(getattr(model, "item_embedding", None), "weight", None)
    if table is None:
        raise UsageError(f"{config['model']} has no item_embedding to draw: use --what=sequences")
    part = test._dataset
    owner = items_of_users(data, part, users, seed)
    others = [item for item in (choose(data.item_num - 1, points, seed) + 1).tolist() if item not in owner]
    items = [*owner, *others[: max(0, points - len(owner))]]
    vectors = unit(table.detach().cpu().numpy()[items])
    names = [str(data.field2id_token[data.iid_field][item]) for item in items]
    return make_cloud(vectors, names, [owner.get(item, "") for item in items])


def items_of_users(data, part, users, seed):
    """Items of some users' histories and whose they are; an item of several belongs to the first.

    Args:
        data, part (SequenceDataset): the whole data and the test part.
        users (int): how many; a user is taken only for at least ``OWN_ITEMS`` items that no other has taken.
        seed (int): of the choice.

    Returns:
        dict[int, str]: item -> label of its user; a line is printed where there are fewer users than asked for.
    """
    owner, found = {}, 0
    for row in np.random.default_rng(seed).permutation(len(part)):
        if found == users:
            break
        own = [item for item in part.history(np.array([row]))[1].tolist() if item not in owner]
        if len(set(own)) >= OWN_ITEMS:
            token = data.field2id_token[data.uid_field][part.inter_feat[part.uid_field][row]]
            owner.update(dict.fromkeys(own, f"user {token}"))
            found += 1
    if found < users:
        print(f"{found} of {users} users: no others have {OWN_ITEMS} items that are not coloured yet", flush=True)
    return owner


def neighbor_cloud(loaded, points, users, seed):
    """Sessions of the test part with their observable and latent neighbours (Figure 5 of DiffSBR).

    Args:
        loaded, points, users, seed: see :func:`sequence_cloud`.

    Raises:
        UsageError: for a model without both kinds of neighbours.
    """
    config, model, data, *_, test = loaded
    if not hasattr(model, "neighbors"):
        raise UsageError(f"{config['model']} has no neighbours to draw: name a checkpoint of DiffSBR")
    part, k = test._dataset, config["k_neighbors"]
    batch = part[choose(len(part), max(1, points // (1 + 2 * k)), seed)].to(config["device"])
    with torch.no_grad():
        found = model.neighbors(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
    session, *neighbors = (unit(vectors.cpu().numpy()) for vectors in found)
    names = [str(data.field2id_token[data.uid_field][i]) for i in batch[data.uid_field].cpu()]
    kinds = ("observable neighbour", "latent neighbour")
    cosines = [float((session[:, None] * vectors).sum(-1).mean()) for vectors in neighbors]
    vectors = np.concatenate([session, *(rows.reshape(-1, session.shape[1]) for rows in neighbors)])
    groups = ["session"] * len(names) + [kind for kind in kinds for _ in range(k * len(names))]
    names = names + [name for _ in kinds for name in names for _ in range(k)]
    note = f"cosine to the session: observable {cosines[0]:.2f}, latent {cosines[1]:.2f}"
    return Cloud(vectors, names, groups, note)


def choose(n, wanted, seed):
    """At most ``wanted`` of n rows, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:wanted])


def unit(vectors):
    """Rows of length one, whose distances are those of cosines."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def make_cloud(vectors, names, groups):
    """A cloud with the silhouette of its coloured points: how well the groups are apart, from -1 to 1."""
    from sklearn.metrics import silhouette_score

    coloured = np.array([group != "" for group in groups])
    labels = np.array(groups)[coloured]
    score = silhouette_score(vectors[coloured], labels) if 1 < len(set(labels)) < len(labels) else float("nan")
    return Cloud(vectors, names, groups, f"silhouette {score:.2f}")


def flatten(vectors, seed):
    """t-SNE of [n, d] vectors: [n, 2]."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    return TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(vectors)
