"""Vectors of texts from an encoder of the BERT family. transformers is imported when it is needed."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from recbole_diffusion.errors import UsageError, one_line
from recbole_diffusion.prepare.optional_libraries import transformers_library
from recbole_diffusion.prepare.result_cache import file_hash


class TextEncoder:
    """Mean of the last hidden states over the real tokens of a text.

    Args:
        name (str): folder of a saved model, or its name on the Hugging Face hub.
        device (torch.device): where it runs.
        max_length (int): tokens of a text that are read.

    Raises:
        UsageError: when transformers is missing, the model cannot be had, is no encoder or reads fewer tokens.
    """

    def __init__(self, name, device, max_length):
        self._device, self._max_length = device, max_length
        self._tokenizer, self._network = self._load(transformers_library(), name)
        config = self._network.config
        if config.is_encoder_decoder or self._tokenizer.pad_token is None:
            raise UsageError(f"--text_model '{name}' is no encoder of the BERT family (it is a {config.model_type})")
        longest = min(self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", max_length))
        if max_length > longest:
            raise UsageError(f"--max_length={max_length} is more than '{name}' reads, at most {longest}")
        self._network.eval().to(device)
        self.width = config.hidden_size
        files = sorted(path for path in Path(name).iterdir() if path.is_file()) if Path(name).is_dir() else []
        self.identity = file_hash(*files) if files else f"{name} {getattr(config, '_commit_hash', None)}"

    @staticmethod
    def _load(transformers, name):
        local = Path(name).is_dir()
        if not local and Path(name).is_absolute():
            raise UsageError(f"--text_model folder '{name}' does not exist")
        if local:
            transformers.utils.logging.disable_progress_bar()  # a file is read at once; downloads keep their bar
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local)
            return tokenizer, transformers.AutoModel.from_pretrained(name, local_files_only=local)
        except Exception as error:  # a dozen types, depending on the file that is missing or broken
            reason = one_line(error, 200)
            what = (
                "the folder must hold config.json, the tokenizer's files and model.safetensors of one encoder"
                if local
                else "check the name, or fetch config.json, the tokenizer's files and model.safetensors of "
                f"https://huggingface.co/{name} elsewhere and give their folder"
            )
            raise UsageError(f"--text_model '{name}' cannot be loaded ({reason}): {what}") from None
        finally:
            transformers.utils.logging.enable_progress_bar()

    def encode(self, texts):
        """Vectors of texts, float32 [B, hidden size] on the CPU."""
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            hidden = self._network(**tokens).last_hidden_state
        return mean_of_real_tokens(hidden, tokens["attention_mask"]).float().cpu().numpy()


def mean_of_real_tokens(hidden, mask):
    """Mean over the tokens whose mask is 1.

    Args:
        hidden (torch.Tensor): [B, L, d].
        mask (torch.Tensor): [B, L] of 0 and 1, at least one 1 per row.

    Returns:
        torch.Tensor: [B, d].
    """
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def encode_texts(texts, encoder, cache, batch_size, max_length, show_progress=True):
    """Vectors of texts, from the cache where it has them; equal texts are encoded once.

    Args:
        texts (Sequence[str]): [n].
        encoder (TextEncoder): the network.
        cache (Cache): where vectors are kept, by the text and the model.
        batch_size (int): texts per step.
        max_length (int): tokens of a text that are read.
        show_progress (bool): show a bar.

    Returns:
        numpy.ndarray: float32 [n, hidden size].
    """
    keys = {text: cache.key("text", encoder.identity, str(max_length), text) for text in texts}
    vectors = {text: cache.get(key) for text, key in keys.items()}
    todo = sorted((text for text, vector in vectors.items() if vector is None), key=lambda text: (len(text), text))
    cached = len(keys) - len(todo)
    with tqdm(total=len(keys), initial=cached, desc="texts", unit="text", disable=not show_progress) as bar:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]  # of similar length, so that little is padding
            found = dict(zip(batch, (row.tobytes() for row in encoder.encode(batch))))
            cache.put({keys[text]: vector for text, vector in found.items()})
            vectors.update(found)
            bar.update(len(batch))
    return np.stack([np.frombuffer(vectors[text], dtype=np.float32) for text in texts])
