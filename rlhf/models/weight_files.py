"""The weights in a model folder: which files they are and what they contain, before a tensor is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from rlhf.errors import UserError, brief, user_message
from rlhf.models.config_file import LAYOUT
from rlhf.storage.untrusted import is_plain_name, parse_json, read_regular_file

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
ADAPTER = "adapter_config.json"
MAX_INDEX_BYTES = 200_000_000
"""Longest index of shards; that of a model of 100,000 tensors has 10 million."""
FLOATS = ("F64", "F32", "F16", "BF16", "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")
"""Number formats of weights that can be trained, as safetensors and torch name them."""
PACKED = re.compile(r"\.(qweight|qzeros|weight_packed|weight_scale|SCB|absmax|quant_map)$|\.quant_state\.")
"""Names of tensors that only quantized weights have."""
WRAPPED = re.compile(r"^((_orig_mod|module)\.)+")
"""Beginning of the names of tensors that torch.compile or DistributedDataParallel had wrapped."""


class Header(NamedTuple):
    """Number format and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightFiles:
    """The files of weights in a model folder, all of which exist."""

    folder: Path
    kind: str
    """SAFETENSORS or PICKLE."""
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def read_headers(self) -> dict[str, Header]:
        """All tensors by their names in the files.

        Raises UserError if a file is damaged, a pickle contains anything but tensors, or the weights are quantized.
        """
        headers: dict[str, Header] = {}
        for path in self.files:
            headers |= _safetensors_headers(path) if self.kind == SAFETENSORS else _pickle_headers(path)
        if not headers:
            raise UserError(f"{self.folder}: no tensors in {self.kind}; copy it again")
        for name, header in headers.items():
            is_weight = name.endswith(".weight") and len(header.shape) > 1
            if PACKED.search(name) or (is_weight and header.dtype not in FLOATS):
                raise UserError(
                    f"{self.folder}: the weights are quantized ({name[:200]!r} of type {header.dtype}), and training "
                    "needs the unquantized model; give the folder of the model that was quantized"
                )
        return headers


def find_weights(folder: Path) -> WeightFiles:
    """The weights in `folder`: safetensors if there are both kinds.

    Raises UserError if there are none, if shards that the index names are missing or in other folders, or if there is
    an adapter.
    """
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{folder / ADAPTER}: an adapter, which is not read; merge it into its model (merge_and_unload of peft), "
            "save that, and give its folder"
        )
    for kind in (SAFETENSORS, PICKLE):
        if (folder / kind).is_file():
            return WeightFiles(folder, kind, (folder / kind,))
        index = folder / f"{kind}.index.json"
        if index.is_file():
            return WeightFiles(folder, kind, _shards(folder, index, Path(kind).suffix))
    raise UserError(f"{folder}: no weights ({SAFETENSORS} or {PICKLE}, unsplit or with an index of shards); {LAYOUT}")


def _shards(folder: Path, index: Path, suffix: str) -> tuple[Path, ...]:
    try:
        shards = sorted(set(parse_json(read_regular_file(index, MAX_INDEX_BYTES))["weight_map"].values()))
        if not shards:
            raise ValueError("it names no shards")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{index}: not an index of shards ({brief(error)}); copy the model's own again") from error
    for name in shards:
        if not isinstance(name, str) or not is_plain_name(name) or not name.endswith(suffix):
            raise UserError(
                f"{index}: the shard {str(name)[:200]!r} is not the plain name of a {suffix} file in this folder; copy "
                "the model's own index again"
            )
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(shards)} shards are missing ({missing[0]}); copy them")
    return tuple(folder / name for name in shards)


def _safetensors_headers(path: Path) -> dict[str, Header]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
            return {name: Header(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(f"{path}: safetensors are damaged ({brief(error)}); copy them again") from error


def _pickle_headers(path: Path) -> dict[str, Header]:
    try:
        state = torch.load(path, map_location="meta", weights_only=True)
        return {name: Header(str(tensor.dtype), tuple(tensor.shape)) for name, tensor in state.items()}
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(
            f"{path.parent}: {path.name} is damaged, of another model, or contains more than tensors "
            f"({type(error).__name__}); convert it to safetensors if you trust it, or copy it again"
        ) from error
