"""Stage: a language model says which model's response to each test prompt is better, in both orders.

Takes `sft_responses` and `rlhf_responses`, and `llm` if the language model is in a folder; writes llm_judgements.jsonl.
A killed run asks only about the pairs that it had not finished.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.evaluation.llm_judge.folder import FolderJudge
from rlhf.evaluation.llm_judge.journal import Journal
from rlhf.evaluation.llm_judge.question import Pair, judge_pair
from rlhf.evaluation.llm_judge.server import ServerJudge
from rlhf.results.llm_judge import LLM_JUDGEMENTS, LlmJudgement, count_judgements
from rlhf.runtime.distributed import all_gather_rows, barrier, init_distributed
from rlhf.runtime.stage import is_main_process, main, note, progress
from rlhf.stage_config import LlmJudgeStage
from rlhf.storage.files import read_jsonl, write_jsonl

PHASE = "ask the language model"


def ask_llm_judge(config: LlmJudgeStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Judge every pair and write the judgements in the order of the prompts; the metrics are their counts.

    A server is asked by the main rank alone.  A model in a folder is run by all ranks.
    """
    pairs = read_pairs(inputs["sft_responses"], inputs["rlhf_responses"])
    questionable = [pair for pair in pairs if not pair.is_equal]
    if config.llm.path is None:
        if not is_main_process():
            return {}
        judged = _ask_server(config, questionable, output)
    else:
        judged = _ask_folder(config, inputs["llm"], questionable, output)
    if not is_main_process():
        return {}
    rows = [judge_pair(pair.id, "C", "C") if pair.is_equal else judged[pair.id] for pair in pairs]
    counts = count_judgements(rows)
    if counts["unreadable"]:
        note(f"{counts['unreadable']} of {2 * len(questionable)} replies of the language model are not A, B or C")
    write_jsonl(output / LLM_JUDGEMENTS, [row.model_dump() for row in rows])
    return {name: float(count) for name, count in counts.items()}


def read_pairs(sft_responses: Path, rlhf_responses: Path) -> list[Pair]:
    """The responses of both models to the same prompts, from the folders that generate_responses wrote."""
    sft, rlhf = (read_jsonl(folder / "responses.jsonl") for folder in (sft_responses, rlhf_responses))
    assert [row["id"] for row in sft] == [row["id"] for row in rlhf], "both models answer the same prompts"
    return [
        Pair(str(after["id"]), str(after["prompt"]), rlhf=str(after["response"]), sft=str(before["response"]))
        for before, after in zip(sft, rlhf, strict=True)
    ]


def _ask_server(config: LlmJudgeStage, pairs: list[Pair], output: Path) -> dict[str, LlmJudgement]:
    """Judgements by prompt id."""
    journal = Journal(output, (pair.id for pair in pairs))

    def finished(judgement: LlmJudgement) -> None:
        journal.append([judgement])
        progress(PHASE, len(journal.judgements), len(pairs))

    with ServerJudge(config.llm, config.seed) as judge:
        if judge.sends_key_openly:
            note(f"the API key is sent to {judge.address.host} without encryption; an https address protects it")
        progress(PHASE, len(journal.judgements), len(pairs))
        judge.judge([pair for pair in pairs if pair.id not in journal.judgements], finished)
    return journal.judgements


def _ask_folder(config: LlmJudgeStage, folder: Path, pairs: list[Pair], output: Path) -> dict[str, LlmJudgement]:
    """Judgements by prompt id.  Each batch of pairs is the same in every run, and is judged by exactly one rank."""
    distributed = init_distributed()
    journal = Journal(output, (pair.id for pair in pairs))
    barrier()  # all ranks read the journal before one of them writes to it
    judge = FolderJudge(folder, config.model.dtype, distributed.device, config.seed)
    size = max(1, config.llm.requests_at_once // 2)  # a pair is two questions
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    unfinished = [batch for batch in batches if any(pair.id not in journal.judgements for pair in batch)]
    progress(PHASE, len(journal.judgements), len(pairs))
    for start in range(0, len(unfinished), distributed.num_processes):
        own = start + distributed.process_index
        judged = all_gather_rows(judge.judge(unfinished[own]) if own < len(unfinished) else [])
        if is_main_process():
            journal.append(judged)
        progress(PHASE, len(journal.judgements), len(pairs))
    return journal.judgements


if __name__ == "__main__":
    main(LlmJudgeStage, ask_llm_judge)
