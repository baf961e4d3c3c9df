"""``recbole-diffusion augment``: the pseudo items of a data set, made once and read by every model."""

import hashlib
import sqlite3
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

import recbole_diffusion
from recbole_diffusion.augment.choices import checkpoint_of, describe_origin, split_settings
from recbole_diffusion.augment.generator import Generator, RecommenderAsClassifier
from recbole_diffusion.augment.histories import drawn_items, training_histories, with_validation
from recbole_diffusion.augment.report import describe_generator, describe_items, doubts
from recbole_diffusion.augment.work import Store, Training, generate, make_pairs
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.pseudo_items import (
    PseudoItems,
    default_file,
    own_folder,
    place_of,
    read_pseudo_items,
    save_pseudo_items,
)
from recbole_diffusion.devices import usable_device
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.result_cache import Cache
from recbole_diffusion.quick_start import load_data_and_model
from recbole_diffusion.training.surroundings import left_as_found


@left_as_found()
def augment(name, settings=None, output=None, cache=None, device=None, force=False, show_progress=True, say=print):
    """Train the generator of a data set on its training part and write pseudo items for its users.

    Stopped at any time, the same call goes on; what is there already is not made again.

    Args:
        name (str): name of the data set.
        settings (dict, optional): of the generator, see ``properties/augment/DiffuASR.yaml``, and of the data set.
        output (str or Path, optional): file to write, by default ``<data_path>/<name>/<name>.augmented.npz``.
        cache (str or Path, optional): SQLite file of finished work, by default ``<output>.cache``.
        device (str, optional): by default cuda where there is one, else cpu.
        force (bool): replace a file that was made from other data or with other settings.
        show_progress (bool): show a bar while items are generated.
        say (callable): takes a line about the progress.

    Returns:
        dict: ``file``, ``fingerprint``, ``users``, ``pseudo_length``, and figures of training and generation.

    Raises:
        UsageError: for anything the user can repair.
    """
    own, config = split_settings(name, settings or {})
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = usable_device(device, f"--device={device}")
    data = create_dataset(config)
    parts = data.build()
    if data.benchmark_filename_list is not None:
        raise UsageError(
            "augment needs whole users, ready-made splits (benchmark_filename) have rows: it is not for them"
        )
    checkpoint = checkpoint_of(own, config, parts[0])
    origin = describe_origin(own, config, parts, checkpoint)
    output = Path(output) if output else default_file(own_folder(config), name)
    if output.is_file() and not force:
        there = read_pseudo_items(output, f"recbole-diffusion augment {name}{place_of(config)} --force").meta
        if there["fingerprint"] != origin["fingerprint"]:
            raise UsageError(
                f"'{output}' was made from other data or settings: --force replaces it, --output names another"
            )
        say(f"'{output}' is there already, of these data and settings")
        return {"file": str(output), **there["report"]}

    chosen = users_to_serve(training_histories(parts[0]), own["max_history"])
    guides = chosen
    if own["guide_from"] == "train_valid":
        guides = with_validation(chosen, parts[1])
        say("warning: guide_from: train_valid LEAKS the validation items; whatever is trained on the file is marked")
    figures = {}
    if own["pseudo_source"] == "diffusion":
        generator = make_generator(own, checkpoint, config, data, device)
        with kept_in(Path(cache or f"{output}.cache")) as results:
            store = Store(results, origin["fingerprint"] + numbering(data))
            items, figures = by_generator(generator, parts[0], guides, own, store, show_progress, say)
    else:
        from_own = own["pseudo_source"] == "random_history"
        items = drawn_items(guides, own["pseudo_length"], data.item_num, own["seed"], from_own)
    report = {"fingerprint": origin["fingerprint"], "users": len(chosen), "pseudo_length": own["pseudo_length"]}
    report.update(describe_items(items, guides), **figures)
    users, tokens = (data.field2id_token[field].astype(str) for field in (data.uid_field, data.iid_field))
    meta = {**origin, "made_by": f"recbole_diffusion {recbole_diffusion.__version__}", "report": report}
    save_pseudo_items(output, PseudoItems(users[chosen.users.numpy()], tokens[1:], items - 1, meta))
    return {"file": str(output), **report}


def numbering(data):
    """Hash of the numbers of users and items, which kept work is made of and which the order of the file decides."""
    names = ["\n".join(data.field2id_token[field].astype(str)) for field in (data.uid_field, data.iid_field)]
    return hashlib.sha256("\0".join(names).encode()).hexdigest()


def users_to_serve(histories, longest):
    """The histories with at most ``longest`` items, all of them for None. Raises UsageError when none is left."""
    if longest is None:
        return histories
    chosen = histories.choose((histories.lengths <= longest).nonzero().squeeze(1))
    if not len(chosen):
        raise UsageError(f"no user has at most {longest} training items: raise max_history")
    return chosen


def make_generator(own, checkpoint, config, data, device):
    """An untrained generator with its item vectors and its classifier. Raises UsageError."""
    if own["item_vectors"] == "pretrained":
        table = checkpoint["state_dict"]["item_embedding.weight"][: data.item_num].float()
    else:
        random = torch.Generator().manual_seed(own["seed"])
        table = torch.randn(data.item_num, own["vector_width"], generator=random)
    scale = table[1:].std(0).clamp(min=1e-8) if own["item_vectors"] == "pretrained" else torch.ones(table.shape[1])
    table = table / scale
    table[0] = 0
    classifier = None
    if own["guidance"] == "classifier" and own["guidance_strength"]:
        model = load_data_and_model(own["checkpoint"], str(Path(config["data_path"]).parent))[1].to(device)
        width, longest = model.item_embedding.weight.shape[1], model.max_seq_length
        if own["pseudo_length"] > longest:
            raise UsageError(f"the classifier reads at most {longest} items: set pseudo_length to that or less")
        if width != table.shape[1]:
            raise UsageError(
                f"the classifier reads vectors of {width} numbers: set vector_width {width}, now {table.shape[1]}"
            )
        classifier = RecommenderAsClassifier(model, scale.to(device))
    torch.manual_seed(own["seed"])
    return Generator(own, table, classifier).to(device)


def by_generator(generator, train, guides, own, store, show_progress, say):
    """Train a generator and let it generate; both go on where they were stopped.

    Args:
        generator (Generator): as it is before training.
        train (SequenceDataset): the training part.
        guides (Histories): of the users who get pseudo items.
        own (dict): settings of the generator, and ``seed``.
        store (Store): of finished work.
        show_progress (bool): show a bar.
        say (callable): takes a line.

    Returns:
        tuple: item numbers [U, M] and figures of training and generation, a dict.
    """
    pairs = make_pairs(training_histories(train), own["pseudo_length"], own["min_pairs"])
    training = Training(generator, pairs, own, store, say)
    figures = training.run()
    say(f"generating for {len(guides):,} users")
    items, cosines = generate(generator, guides, own["generation_batch"], store, show_progress)
    figures.update(describe_generator(generator, pairs, training.held_out, train.item_counts(), cosines))
    for doubt in doubts(figures):
        say(f"warning: {doubt}")
    return items, figures


@contextmanager
def kept_in(path):
    """The file of finished work. Raises UsageError when it cannot be used; Ctrl-C says how to go on."""
    results = Cache(path)
    try:
        yield results
    except sqlite3.Error as error:
        raise UsageError(f"cache '{path}' cannot be used ({error}): delete it or name another --cache") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in {path}, the same command goes on") from None
    finally:
        results.close()


def main(args, settings=None):
    """Run ``recbole-diffusion augment`` with parsed arguments; returns the exit code 0, raises UsageError.

    Args:
        args (argparse.Namespace): see :func:`recbole_diffusion.augment.arguments.add_augment`.
        settings (dict, optional): of the generator and of the data set.
    """
    bars = sys.stderr is not None and sys.stderr.isatty()
    report = augment(args.name, settings, args.output, args.cache, args.device, args.force, bars, _say)
    for key, value in report.items():
        print(f"{key}: {value}")
    return 0


def _say(line):
    print(line, file=sys.stderr if line.startswith("warning: ") else sys.stdout, flush=True)
