"""Reads a model's config.json of unknown origin: what cannot be used is refused before anything of its size is built.

transformers builds lists, dictionaries and layers as long as the numbers in config.json say, and downloads the code
that some of its keys name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CONFIG_MAPPING

from rlhf.errors import UserError, brief, quoted
from rlhf.storage.untrusted import MalformedJsonError, parse_json, read_regular_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # the transformers that trlx needs has another name for it

LAYOUT = "give a folder as save_pretrained of transformers writes it"
"""What to do about a folder that lacks something."""
MAX_BYTES = 20_000_000
"""Longest config.json; id2label of 100,000 labels has 3 million."""
MAX_INTEGER = 2**31 - 1
BOUNDS = {re.compile(r"(layers?|blocks|types|depth)$"): 1000, re.compile(r"(heads?|experts|labels|groups)$"): 100_000}
"""Largest integer under the keys that a pattern finds, for what transformers builds one by one; others: MAX_INTEGER."""
UNBOUNDED = re.compile(r"theta|base|factor|flos")
"""Keys whose integers are no sizes."""
MAX_TABLE_ROWS = 20_000
TABLE_TYPES = ("distilbert", "flaubert", "marian", "pegasus", "roformer", "xlm")
"""Model types that compute position embeddings row by row, at most MAX_TABLE_ROWS of them."""
MAX_OPERATIONS = 2_000_000
"""Tensor operations with which a model may be built.  One with 60 layers of 256 experts takes a tenth."""
BUFFERS_PER_BYTE, SMALL_BUFFERS = 16, 2**26
"""Largest number of values in tables that are computed, such as masks: per byte of the weights, or in any model."""
MAX_QUOTED = 80
"""Characters of a value that a message repeats."""
QUANTIZATION_KEYS = ("quantization_config", "compression_config")
IGNORED_KEYS = ("auto_map", "dtype", "torch_dtype", "custom_pipelines", "use_kernels", *QUANTIZATION_KEYS)
"""Keys for code that is never run, and for what the reader decides.  Keys with `implementation`, which choose a kernel
for attention or experts and may name one to download, are ignored too."""


def read_config(folder: Path, **changes: object) -> PreTrainedConfig:
    """The configuration in `folder`, with `changes` to its keys; a change to None removes the key.

    The kernel for attention is this machine's, whatever config.json says.  A pad token for which there is no embedding
    is dropped.  Raises UserError if config.json is missing or damaged, names a model that transformers has no code for,
    is that of quantized weights, or has values that no model of its kind can have.
    """
    path = folder / "config.json"
    values = _read_object(path)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{path}: model_type ({quoted(model_type, MAX_QUOTED)}) is not one that transformers "
            f"{transformers.__version__} knows, and code from a model folder is never run; use a model of a known "
            "architecture"
        )
    try:
        _require_unquantized(path, values)
        values = _plain(values) | changes
        values = {key: value for key, value in values.items() if value is not None or key not in changes}
        _require_bounded(path, values)
        config: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(values)
        _drop_foreign_pad_tokens(config)
        _require_table_rows(path, config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}: not a configuration of a {model_type} model ({brief(error)}); copy the model's own again"
        ) from error
    return config


def require_size(kind: Any, config: PreTrainedConfig, folder: Path, weight_bytes: int) -> nn.Module:
    """The model that `kind`, an Auto class of transformers, makes of a configuration: sizes only, no memory.

    Raises UserError if transformers cannot build it, or if it has more parameters than `weight_bytes`, the bytes of the
    weights on disk: such weights are of another model, and to allocate it could take all memory.
    """
    path = folder / "config.json"
    try:
        with _Counted(), torch.device("meta"):
            model: nn.Module = kind.from_config(config, trust_remote_code=False)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        buffers = sum(buffer.numel() for buffer in model.buffers())
    except Exception as error:
        raise UserError(
            f"{path}: transformers cannot build a model from it as {kind.__name__} ({brief(error)}); give a folder of "
            "such a model, with its own config.json"
        ) from error
    if parameters > weight_bytes or buffers > max(BUFFERS_PER_BYTE * weight_bytes, SMALL_BUFFERS):
        raise UserError(
            f"{path}: describes a model of {max(parameters, buffers):,} numbers, but the weights have only "
            f"{weight_bytes:,} bytes; give the config.json that belongs to them"
        )
    return model


class _Counted(TorchFunctionMode):
    """Stops after MAX_OPERATIONS tensor operations: a number in config.json asks for endless layers."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise ValueError(f"it has more than {MAX_OPERATIONS:,} parts")
        return function(*args, **(kwargs or {}))


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: missing; {LAYOUT}")
    try:
        values = parse_json(read_regular_file(path, MAX_BYTES))
    except MalformedJsonError as error:
        raise UserError(f"{path}: not JSON ({error}); copy the model's own config.json again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not an object; copy the model's own config.json again")
    return values


def _require_unquantized(path: Path, values: dict[str, Any]) -> None:
    for key, value in _entries(values):
        if key in QUANTIZATION_KEYS and value:
            method = value.get("quant_method", "bitsandbytes") if isinstance(value, dict) else value
            raise UserError(
                f"{path}: {key}: the weights are quantized ({quoted(method, MAX_QUOTED)}), and training needs the "
                "unquantized model; give the folder of the model that was quantized"
            )


def _require_bounded(path: Path, values: dict[str, Any]) -> None:
    for key, value in _entries(values):
        if not isinstance(value, int) or UNBOUNDED.search(key):
            continue
        bound = next((bound for pattern, bound in BOUNDS.items() if pattern.search(key)), MAX_INTEGER)
        if abs(value) > bound:
            raise UserError(
                f"{path}: {quoted(key, MAX_QUOTED)} is {value}, but at most {bound} are read; copy the model's own "
                "config.json again"
            )


def _require_table_rows(path: Path, config: PreTrainedConfig) -> None:
    rows = getattr(config, "max_position_embeddings", 0)
    if config.model_type in TABLE_TYPES and rows > MAX_TABLE_ROWS:
        raise UserError(
            f"{path}: max_position_embeddings is {rows}, but at most {MAX_TABLE_ROWS} are read for a "
            f"{config.model_type} model; copy the model's own config.json again"
        )


def _entries(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested objects and lists, with the key that they are under."""
    yield key, values
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _entries(value, name)
    elif isinstance(values, list):
        for value in values:
            yield from _entries(value, key)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values without the keys that are ignored, also in nested objects."""
    return {
        key: _plain(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in IGNORED_KEYS and "implementation" not in key
    }


def _drop_foreign_pad_tokens(config: PreTrainedConfig) -> None:
    for part in (config, config.get_text_config()):
        rows, pad = getattr(part, "vocab_size", None), getattr(part, "pad_token_id", None)
        if rows is not None and pad is not None and not 0 <= pad < rows:
            part.pad_token_id = None
