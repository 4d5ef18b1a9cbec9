"""Stage: export the aligned model as a folder with weights, tokenizer, generation settings and model card.

Takes `rlhf` and `results`; writes `model/`.  Torch-free: the weights are hard links to those of the artifact, or copies
if the file system has no hard links.
"""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.config import SamplingConfig
from rlhf.report.model_card import CARD, model_card
from rlhf.results.schema import MODEL, RESULTS, Results
from rlhf.runtime.stage import main
from rlhf.stage_config import ExportStage
from rlhf.storage.files import copy_model, write_atomically

GENERATION = "generation_config.json"


def export_model(config: ExportStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the folder; returns its size and number of files."""
    results = Results.model_validate_json((inputs["results"] / RESULTS).read_bytes())
    folder = output / MODEL
    copy_model(inputs["rlhf"] / "model", folder)
    write_generation_config(folder, config.responses.sampling)
    write_atomically(folder / CARD, model_card(results, config))
    files = list(folder.iterdir())
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def write_generation_config(folder: Path, sampling: SamplingConfig) -> None:
    """Make the sampling settings of the evaluation the model's defaults."""
    path = folder / GENERATION
    settings = json.loads(path.read_bytes()) if path.exists() else {}
    model = json.loads((folder / "config.json").read_bytes())
    end = settings.get("eos_token_id", model.get("eos_token_id"))
    settings |= {"do_sample": True, **sampling.model_dump(), "eos_token_id": end}
    if settings.get("pad_token_id") is None:
        settings["pad_token_id"] = end[0] if isinstance(end, list) else end
    write_atomically(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(ExportStage, export_model)
