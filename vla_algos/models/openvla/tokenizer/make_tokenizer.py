"""
Train the small byte-level BPE of the presets ``compact`` and ``nano`` on the texts of LIBERO's 130 tasks.

Every word of these texts becomes one token; any other text falls back to pieces and, in the end, to bytes.
Run as ``python -m vla_algos.models.openvla.tokenizer.make_tokenizer``; the result is byte-for-byte reproducible.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<PAD>"}


def libero_instructions() -> list[str]:
    """
    Texts of LIBERO's tasks, read off the names of its BDDL files without importing LIBERO.

    :return: distinct instructions, sorted
    :raises ModuleNotFoundError: if LIBERO is not installed
    """
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "LIBERO is not installed; its file names hold the texts. Run: pip install 'vla-gym[scenes]'"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "libero" / "bddl_files"
    stems = [path.stem for path in folder.glob("*/*.bddl")]
    return sorted({re.sub(r"^[A-Z_]+SCENE\d+_", "", stem).replace("_", " ") for stem in stems})


def train(texts: list[str]) -> Tokenizer:
    """
    Byte-level BPE with merges until every word of ``texts`` is one token.

    :param texts: training texts
    :return: the tokenizer; it adds no special tokens by itself
    """
    tokenizer = Tokenizer(models.BPE())
    # the prefix space makes the first word of a text the same token as the word elsewhere
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Write the three tokenizer files next to this script."""
    folder = Path(__file__).parent
    train([text.lower() for text in libero_instructions()]).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **SPECIAL_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL_TOKENS, indent=2) + "\n")


if __name__ == "__main__":
    main()
