"""Trained models as ONNX files: histories of item numbers in, scores of all items out.

The packed layers make tensors whose shapes depend on the data, which does not export, so models are exported in the forms of
``padded``, ``padded_restoring`` and ``padded_mgs``, which have the same weights.

Models whose user vector is a function of the history are exported as they recommend, DreamRec and PreferDiff with the
mean of what they generate, which is how they recommend by default. DiffuRec, DiffuRecSys and DiQDiff start from noise,
which an exported graph cannot look up by history; exported is one step of theirs without noise: x = 0 at t = 0, lambda at
its mean and the best code, a single forward pass of the approximator. The twin of DiQDiff has no noise and is whole. Of ADRec
all steps are exported, from zeros and without noise, which is how it recommends with ``sampling_noise: False`` or as its
twin; ACVAE as it recommends with ``eval_draws: 0``.
"""

import io
import json
import warnings

import torch

from recbole_diffusion import __version__
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import same_file, written_whole
from recbole_diffusion.serving.padded import (
    PaddedACVAE,
    PaddedAlready,
    PaddedAttenMixer,
    PaddedDIMO,
    PaddedDreamRec,
    PaddedEncoder,
    PaddedMMSBR,
    PaddedSTOSA,
    PaddedVSAN,
)
from recbole_diffusion.serving.padded_mgs import PaddedMGS
from recbole_diffusion.serving.padded_restoring import PaddedADRec, PaddedDiffuRec, PaddedDiQDiff
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.versions import below

FORMATS = ("onnx",)
OLDEST_TORCH = "2.6"  # the first whose exporter writes one file

EXPORTABLE = {
    "SimDiffRec": PaddedEncoder,
    "CaDiRec": PaddedEncoder,
    "CL4SRec": PaddedEncoder,
    "DuoRec": PaddedEncoder,
    "MCLRec": PaddedEncoder,
    "MFGAN": PaddedEncoder,
    "DiffuRec": PaddedDiffuRec,
    "DiffuRecSys": PaddedDiffuRec,
    "DiQDiff": PaddedDiQDiff,
    "STOSA": PaddedSTOSA,
    "VSAN": PaddedVSAN,
    "ACVAE": PaddedACVAE,
    "AttenMixer": PaddedAttenMixer,
    "DIMO": PaddedDIMO,
    "MGS": PaddedMGS,
    "MMSBR": PaddedMMSBR,
    "ECLSR": PaddedEncoder,
    "DreamRec": PaddedDreamRec,
    "PreferDiff": PaddedDreamRec,
    "ADRec": PaddedADRec,
    "SASRec": PaddedAlready,
    "GRU4Rec": PaddedAlready,
}


def padded_scorer(model):
    """The exportable form of a trained model, on the same weights.

    Raises:
        UsageError: when there is none.
    """
    name = type(model).__name__
    if name not in EXPORTABLE:
        raise UsageError(f"{name} cannot be exported, {', '.join(EXPORTABLE)} can")
    return EXPORTABLE[name](model).eval()


def export_onnx(recommender, path):
    """Write a model as one ONNX file.

    Inputs are ``item_seq`` [batch, MAX_ITEM_LIST_LENGTH] and ``item_seq_len`` [batch], both int64; the output is
    ``scores`` [batch, items], float32. The metadata hold ``item_tokens``, a JSON list of the token of every number.

    Args:
        recommender (Recommender): the model, on the CPU.
        path (str or Path): the file.

    Raises:
        UsageError: when the model has no exportable form, packages are missing or the file cannot be written.
    """
    scorer = padded_scorer(recommender.network)
    _require_packages()
    example = torch.ones(2, scorer.width, dtype=torch.long), torch.tensor([1, scorer.width])
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own use of PyTorch
        program = torch.onnx.export(
            scorer,
            example,
            input_names=["item_seq", "item_seq_len"],
            output_names=["scores"],
            dynamic_shapes=({0: batch}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
    facts = {
        "recbole_diffusion": __version__,
        "model": recommender.config["model"],
        "item_tokens": json.dumps(recommender.tokens),
    }
    program.model.metadata_props.update(facts)
    content = io.BytesIO()
    program.save(content, external_data=False)
    with written_whole(path, binary=True) as file:
        file.write(content.getvalue())


def _require_packages():
    if below(torch.__version__, OLDEST_TORCH):
        raise UsageError(f"export needs PyTorch {OLDEST_TORCH} or later, this is {torch.__version__}")
    for name in ("onnx", "onnxscript"):
        try:
            __import__(name)
        except ImportError:
            raise UsageError(f"export needs the package {name}: pip install onnx onnxruntime onnxscript") from None


# ------------------------------------------------------------------------------------------- command line


def main(args):
    """Run ``recbole-diffusion export``; returns 0."""
    if args.format not in FORMATS:
        raise UsageError(f"format must be {', '.join(FORMATS)}, got '{args.format}'")
    if same_file(args.checkpoint, args.output):
        raise UsageError(f"checkpoint and output are the same file, '{args.checkpoint}'")
    recommender = Recommender.load(args.checkpoint, "cpu", args.trust_checkpoint)
    export_onnx(recommender, args.output)
    print(
        f"{recommender.config['model']} -> {args.output}: item_seq [batch, {recommender.max_length}], "
        f"item_seq_len [batch] -> scores [batch, {len(recommender.tokens)}]"
    )
    return 0
