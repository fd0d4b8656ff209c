"""Models of the Hugging Face Hub: looked at before they are downloaded, and never downloaded in silence."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from vla_algos.errors import CheckpointError
from vla_algos.models.openvla.config import PRESETS
from vla_algos.models.openvla.variants import MODELLING_FILE, refuse_other_files
from vla_gym.assets.download import hub_errors

logger = logging.getLogger(__name__)

PATTERNS = ["*.json", "*.safetensors", "tokenizer.model", MODELLING_FILE]
"""Files of a checkpoint that are downloaded; the Python file is searched for a mark of other models, never run."""
_TIMEOUT_S = 20.0


def is_hub_id(name: str) -> bool:
    """
    Whether a name has the form of an id on the Hub, ``organisation/name``.

    :param name: any text
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None and ".." not in name


def download(name: str, revision: str | None = None) -> Path:
    """
    Download a checkpoint, unless its list of files says that it is of a kind that is not read.

    Where the Hub cannot be asked, what the local cache holds is taken.

    :param name: id on the Hub
    :param revision: branch, tag or commit; None: the main branch
    :return: folder in the Hub's cache
    :raises CheckpointError: if there is no such model, it is of another kind, or huggingface_hub is not installed
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{name!r} is neither a preset ({', '.join(PRESETS)}) nor a folder, and reading it from the "
            "Hugging Face Hub needs huggingface_hub. Run: pip install vla-gym[hub]"
        ) from error
    wanted = revision or "main"
    # a warning, which is shown where logging was not set up
    logger.warning("Fetching the model %s, revision %s, from the Hugging Face Hub.", name, wanted)
    try:
        info = HfApi().model_info(name, revision=revision, timeout=_TIMEOUT_S)
    except hub_errors() as error:
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS, local_files_only=True))
        except hub_errors():
            raise CheckpointError(
                f"Could not get {name!r}, revision {wanted}, from the Hugging Face Hub: {error} Check the name and the "
                f"connection, or give a local folder or a preset ({', '.join(PRESETS)})."
            ) from error
        logger.warning("The Hub cannot be asked (%s); taking %s from its cache.", error, folder)
        return folder
    refuse_other_files(name, [sibling.rfilename for sibling in info.siblings or []])
    try:
        folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=PATTERNS))
    except hub_errors() as error:
        raise CheckpointError(f"Could not download {name!r}, revision {info.sha}: {error} Try again.") from error
    logger.warning('Fetched %s at commit %s; revision="%s" pins it.', name, info.sha, info.sha)
    return folder
