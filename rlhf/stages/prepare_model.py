"""Stage: the base model in one layout, whatever it comes from.

Makes `model/`: config.json, safetensors in `model.dtype`, the tokenizer with an EOS and a pad token, and a generation
config that names these tokens and nothing else, since how text is drawn is this package's own setting.  The model is
the user's folder (input `source`), the synthetic model, trained here (with metrics.jsonl), or one from the hub.

What a stage later on would trip over is found here: each check is one UserError that names path, fault and remedy.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import httpx
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.errors import UserError, user_message
from rlhf.models.loading import Dtype, load_causal_lm, save_model
from rlhf.models.synthetic_model import train_synthetic_model
from rlhf.models.tokenization import load_tokenizer
from rlhf.runtime.stage import is_main_process, main, note
from rlhf.stage_config import ModelStage

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""A folder with none of these has no vocabulary; transformers would make up an empty one for some architectures."""
DESCRIPTIONS = ("*.json", "*.txt", "tokenizer*", "*.model")
"""Files of a hub repository that are no weights."""
LAYOUT = "give a folder as save_pretrained of transformers writes it"


def prepare_model(config: ModelStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write `model/`; the figures are the number of parameters and, of the synthetic model, the last loss."""
    settings = config.model
    if "source" not in inputs and settings.synthetic is not None:
        trained = train_synthetic_model(settings.synthetic, config.seed, output)
        if is_main_process():
            write_model(trained.model.to(getattr(torch, settings.dtype)), trained.tokenizer, output)
        return {"parameters": trained.model.num_parameters(), "loss": trained.loss}
    if not is_main_process():
        return {}
    source = inputs["source"] if "source" in inputs else download_model(settings.repository, settings.revision)
    model, tokenizer = read_model(source, settings.dtype)
    write_model(model, tokenizer, output)
    return {"parameters": model.num_parameters()}


def read_model(folder: Path, dtype: Dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model in `folder` and its tokenizer.  Raises UserError where they are not fit for use."""
    require_known_architecture(folder)
    weights = find_weights(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder}: no tokenizer ({', '.join(TOKENIZER_FILES)} are all missing); put the model's beside it"
        )
    tokenizer = load_tokenizer(folder)
    try:
        model = load_causal_lm(folder, dtype) if weights == SAFETENSORS else load_pickled(folder, dtype)
    except SafetensorError as error:
        raise UserError(f"{folder}: safetensors are damaged ({error}); copy them again") from error
    require_matching_vocabulary(folder, model, tokenizer)
    require_causal(folder, model)
    return model, tokenizer


def require_known_architecture(folder: Path) -> None:
    """Raise UserError where config.json is missing or broken, or names a model that transformers has no code for."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: missing; {LAYOUT}")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); copy the model's own config.json again") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"{path}: model_type ({kind}) is not one that transformers {transformers.__version__} knows, and code from "
            "a model folder is never run; use a model of a known architecture"
        )


def find_weights(folder: Path) -> str:
    """SAFETENSORS or PICKLE: the kind of weights in `folder`, the first where it has both.

    Raises UserError where there are none, or where shards that the index names are missing.
    """
    for name in (SAFETENSORS, PICKLE):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return name
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{index}: no index of shards; copy the model's own again") from error
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise UserError(
                    f"{folder}: {len(missing)} of {len(shards)} shards are missing ({missing[0]}); copy them"
                )
            return name
    raise UserError(f"{folder}: no weights ({SAFETENSORS} or {PICKLE}, whole or with an index of shards); {LAYOUT}")


def load_pickled(folder: Path, dtype: Dtype) -> PreTrainedModel:
    """The model in `folder`, in evaluation mode, from pytorch_model.bin, which is read without running code from it.

    Raises UserError where the file holds anything but tensors, or not all tensors of the model.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=False,
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{folder}: {PICKLE} is damaged, of another model, or holds more than tensors ({type(error).__name__}); "
            "convert it to safetensors where you trust it, or copy it again"
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        names = ", ".join(sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))[:5])
        raise UserError(f"{folder}: tensors of the model are not in {PICKLE} as config.json says ({names}); {LAYOUT}")
    loaded: PreTrainedModel = model
    return loaded


def require_matching_vocabulary(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where the tokenizer makes ids that the model has no embedding for."""
    rows, highest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"{folder}: the tokenizer's ids go up to {highest}, but the model has {rows} embeddings; "
            "use the tokenizer that the model was trained with"
        )


def require_causal(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError where the model's numbers are not finite, or where a token sees those after it."""
    one, other = torch.arange(8).unsqueeze(0), torch.arange(8).unsqueeze(0)
    other[0, -1] = 0
    with torch.no_grad():
        logits, other_logits = (model(input_ids=ids, use_cache=False).logits[0, :-1].float() for ids in (one, other))
    if not torch.isfinite(logits).all():
        raise UserError(f"{folder}: the model's output is not finite; the weights are damaged, copy them again")
    if (logits - other_logits).abs().max() > 1e-3 * logits.std():
        raise UserError(
            f"{folder}: {type(model).__name__} sees tokens to come; use a model that was trained to write text"
        )


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    """Write `output`/model."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    save_model(model, tokenizer, output / "model")


def download_model(repository: str, revision: str) -> Path:
    """Folder with the repository's files at `revision`: safetensors where it has them, else the pickle.

    What was downloaded before is not fetched again.  Raises UserError where the files cannot be had.
    """
    note(f"downloading {repository} at {revision}")
    folder = Path()
    for weights in ("model*.safetensors", "pytorch_model*.bin"):
        try:
            folder = Path(
                snapshot_download(
                    repository, revision=revision, allow_patterns=[*DESCRIPTIONS, weights], ignore_patterns=["*/*"]
                )
            )
        except (OSError, httpx.HTTPError, HFValidationError) as error:
            if user_message(error):  # a full disk is not the hub's fault
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"cannot download {repository} at {revision} from the Hugging Face hub ({reason}); "
                "check the connection, or set model.path to a local copy"
            ) from error
        if any(folder.glob(weights)):
            break
    return folder


if __name__ == "__main__":
    main(ModelStage, prepare_model)
