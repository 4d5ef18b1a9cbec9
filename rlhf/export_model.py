"""A model folder that is ready to share: weights, tokenizer, generation settings and a card filled from the results.

Takes `ppo` and `results`; makes `model/`.  Torch-free: weights are hard links to the artifact's own where the file
system has them, else copies; nothing is loaded.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from rlhf.artifacts import write_atomically
from rlhf.config import ExportStage, RunConfig, SamplingConfig, part_of
from rlhf.report.card import CARD, model_card
from rlhf.report.results import CONFIG, RESULTS, Results
from rlhf.stage import main

FOLDER = "model"
GENERATION = "generation_config.json"


def export_model(config: ExportStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the folder; the figures are its size and its number of files."""
    results = Results.model_validate_json((inputs["results"] / RESULTS).read_bytes())
    folder = output / FOLDER
    place_model(inputs["ppo"] / "model", folder)
    write_generation_config(folder, config.responses.sampling)
    write_atomically(folder / CARD, model_card(results, config))
    files = list(folder.iterdir())
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def place_model(source: Path, folder: Path) -> None:
    """Put the files of the model at `source` into `folder`, which is then whole or not there at all."""
    temporary, replaced = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        link_or_copy(file, temporary / file.name)
    if folder.exists():
        folder.rename(replaced)
    temporary.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link for weights, which nobody edits; a copy of everything else, and where there can be no link."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)


def write_generation_config(folder: Path, sampling: SamplingConfig) -> None:
    """Make the folder's model draw as the evaluation did, unless a caller asks for something else."""
    path = folder / GENERATION
    settings = json.loads(path.read_bytes()) if path.exists() else {}
    model = json.loads((folder / "config.json").read_bytes())
    end = settings.get("eos_token_id", model.get("eos_token_id"))
    settings |= {"do_sample": True, **sampling.model_dump(), "eos_token_id": end}
    if settings.get("pad_token_id") is None:
        settings["pad_token_id"] = end[0] if isinstance(end, list) else end
    write_atomically(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def refresh_card(run: Path) -> None:
    """Write the card of the published model in the folder `run` again, from the results that lie there now."""
    if (run / FOLDER).is_dir():
        results = Results.model_validate_json((run / RESULTS).read_bytes())
        config = RunConfig.model_validate_json((run / CONFIG).read_bytes())
        write_atomically(run / FOLDER / CARD, model_card(results, part_of(config, ExportStage)))


if __name__ == "__main__":
    main(ExportStage, export_model)
