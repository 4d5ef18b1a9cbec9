"""Changes to the files of a model folder, as they are met in published ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"


def edit_json(path: Path, **changes: object) -> Path:
    """Set fields of the object in `path`, or remove those that are None; returns `path`."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return path


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Write the safetensors in `folder` after `edit` changed them in place; returns `folder`."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> Path:
    """Give the safetensors in `folder` other names; returns `folder`."""
    tensors = {rename(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def as_pickle(folder: Path, *, zipped: bool = True) -> Path:
    """Replace the safetensors in `folder` by a pickle; `zipped` is its layout since torch 1.6.  Returns its path."""
    pickled = folder / PICKLE
    torch.save(load_file(folder / WEIGHTS), pickled, _use_new_zipfile_serialization=zipped)
    (folder / WEIGHTS).unlink()
    return pickled


def write_safetensors(path: Path, header: bytes, data: bytes = b"") -> Path:
    """Write a safetensors file with any bytes as its header; returns `path`."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path
