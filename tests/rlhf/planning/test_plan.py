"""The plan agrees with numbers worked by hand, and its memory with the formula that is tested on measured peaks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from flows.cli import app
from rlhf.config import ModelConfig, RunConfig, SyntheticModel
from rlhf.errors import UserError
from rlhf.planning.machines import GIB, find_machine
from rlhf.planning.plan import Plan
from rlhf.planning.ppo_estimates import engine_memory, step_flop
from rlhf.planning.scenario import HUB_MODELS, make_scenario
from rlhf.planning.throughput import read_benchmark
from rlhf.profiles import load_profile
from tests.benchmarks.ppo import engine_flops, memory_of
from tests.benchmarks.work import Work
from tests.support.plans import (
    BLOCK,
    BLOCK_WEIGHTS,
    FORWARD,
    GPT_J,
    MEMORY,
    OUTPUT,
    REWARD_MODEL,
    TRAINING,
    VALUE_HEAD,
    planned,
    stage,
)


@pytest.fixture(scope="module")
def published() -> Plan:
    return planned("gptj-6b", "p4d.24xlarge")


def test_fine_tuning_by_hand(published: Plan) -> None:
    """8 GPUs, a row of at most 512 tokens on each, activations recomputed, AdamW in float32 sharded by FSDP."""
    sft = stage(published, "train_sft")
    assert sft.estimate.memory == {
        "weights": 4 * GPT_J // 8,
        "gradients": 4 * GPT_J // 8,
        "AdamW": 8 * GPT_J // 8,
        "activations": 28 * 512 * 4096 * 2 + 30 * 512 * 4096 * 2,  # one state per block, and one complete block
        "logits": 4 * 512 * 50400 * 4,
        "gathered": 2 * (2 * BLOCK + OUTPUT + OUTPUT + 50400),
    }
    assert sft.memory == pytest.approx(14.39e9, rel=1e-3)
    # 10,000 steps of 8 rows of 0.29 x 384 + 0.32 x 128 = 152.32 tokens, 6 operations per weight and 2 more in the
    # blocks; validated 11 times on 128 rows, 2 operations.
    tokens, read = 80_000 * 152.32, 11 * 128 * 152.32
    weights = 28 * BLOCK_WEIGHTS + OUTPUT
    by_hand = tokens * (6 * weights + 2 * 28 * BLOCK_WEIGHTS) + read * 2 * weights
    assert by_hand == pytest.approx(567.1e15, rel=1e-3)
    assert sft.estimate.flop == pytest.approx(by_hand, rel=1e-9)
    # Products take 567.1e15 / (8 x 0.35 x 312e12) = 649 s.  The exchange takes longer: three times 7/8 of 12.1 GB a
    # step at 0.6 x 300 GB/s = 0.1765 s, 1,765 s.  Files: ten checkpoints of 72.6 GB, and 72.6 GB, at 1 GB/s = 799 s.
    assert sft.estimate.seconds == pytest.approx(1_765 + 799, rel=1e-3)
    assert sft.dollars == pytest.approx(2_564 / 3600 * 21.96, rel=1e-3)
    assert sft.estimate.host_memory_bytes == 8 * 4 * GPT_J


def test_ppo_memory_by_hand(published: Plan) -> None:
    """bfloat16 policy and reward model on every GPU, two blocks and the output layer trained."""
    top = 2 * BLOCK + 2 * 4096 + OUTPUT + 50400
    standing = {
        "policy": 2 * (GPT_J + VALUE_HEAD),
        "reward model": 2 * REWARD_MODEL,
        "reference": 2 * top,
        "AdamW": 12 * (top + VALUE_HEAD) // 8,
    }
    memory = stage(published, "train_ppo").estimate.memory
    assert {name: memory[name] for name in standing} == standing
    # 56 rollouts of a process, 511 places each.
    assert memory["trunk states"] == 56 * 511 * 4096 * 2
    # Three quarters of 39.4 GiB less 26.04 GB leave 5.69 GB for keys and values; a rollout's take
    # 2 x 28 x 512 x 4096 x 2 = 0.235 GB, so 24 would fit, which are three batches: of 19.
    room = 0.75 * 39.4 * GIB - sum(standing.values())
    assert room / (2 * 28 * 512 * 4096 * 2) == pytest.approx(24.2, abs=0.05)
    assert "decoding 19 at once or training" in memory


def test_a_ppo_step_by_hand() -> None:
    """The published scenario, 448 rollouts of 384 + 128 tokens: 229,376 tokens, 57,344 of them decoded."""
    model = HUB_MODELS["EleutherAI/gpt-j-6b"]
    flop = step_flop(model, model, rollouts=448, prompt_tokens=384, response_tokens=128, unfrozen_blocks=2, epochs=4)
    blocks, decoded_output = 229_376 * 2 * 28 * BLOCK_WEIGHTS, 57_344 * 2 * OUTPUT
    # At 172,032 prompt tokens the last block makes keys and values only: 2 of its 12 d^2.
    top = 229_376 * 2 * 2 * BLOCK_WEIGHTS - 172_032 * 2 * 10 * 4096**2 + decoded_output
    assert (flop.decode, flop.score) == (blocks + decoded_output, blocks)
    assert (flop.estimate, flop.train) == (2 * top, 12 * top)
    assert flop.total == pytest.approx(7.30e15, rel=2e-3)  # trlx takes 27.5e15


def test_ppo_hours_by_hand(published: Plan) -> None:
    """A step of one rank, 56 rollouts of 111.36 + 128 tokens in three batches of 19."""
    blocks = 2 * 28 * BLOCK_WEIGHTS
    tokens, drawn = 56 * 239.36, 56 * 128
    prompts = 56 * 111.36 * blocks / FORWARD
    # Each of 3 x 128 draws reads the weights and 19 rows' keys and values of 175 tokens: 2 x 28 x 4096 x 2 a token.
    draws = 3 * 128 * (2 * GPT_J + 19 * 175 * 458_752) / MEMORY
    top = tokens * 2 * 2 * BLOCK_WEIGHTS - (tokens - drawn) * 2 * 10 * 4096**2 + drawn * 2 * OUTPUT
    judging = prompts + draws + (tokens * blocks + 2 * top) / FORWARD
    trained = 2 * BLOCK + 2 * 4096 + OUTPUT + 50400 + VALUE_HEAD
    exchange = 56 * trained * 6 / (0.6 * 300e9)
    step_seconds = judging + 12 * top / TRAINING + exchange
    assert step_seconds == pytest.approx(9.83, abs=0.01)
    # 20 validations (before the first step, after every fifth, after the last) of 16 rollouts per rank, in one batch.
    draws = 128 * (2 * GPT_J + 16 * 175 * 458_752) / MEMORY
    measurement = draws + 16 * (111.36 + 239.36) * blocks / FORWARD + 2 * top * 16 / 56 / FORWARD
    # Policy read and written, reward model read, three checkpoints of masters and moments, at 1 GB/s.
    files = (4 * GPT_J + 2 * REWARD_MODEL + 3 * 12 * trained) / 1e9
    seconds = stage(published, "train_ppo").estimate.seconds
    assert seconds == pytest.approx(94 * step_seconds + 20 * measurement + files, rel=1e-4)


def test_the_plan_uses_the_memory_formula_that_is_measured() -> None:
    """tests/ppo/test_memory.py holds the same figures against measured peaks of two sizes."""
    for width in (256, 384):
        work = Work(hidden_size=width, num_heads=width // 64, rollouts=32, response_tokens=16, epochs=1)
        config = RunConfig(
            model=ModelConfig(
                synthetic=SyntheticModel(
                    hidden_size=width, num_heads=work.num_heads, num_layers=work.num_layers, vocab_size=work.vocab_size
                )
            ),
            data=RunConfig().data.model_copy(update={"max_prompt_tokens": work.prompt_tokens}),
            ppo=work.stage().ppo,
        )
        memory = engine_memory(make_scenario(config, find_machine("cpu"), {}))
        assert memory == memory_of(work)


def test_operations_are_those_of_the_benchmark() -> None:
    work = Work()
    model = make_scenario(
        RunConfig(
            model=ModelConfig(
                synthetic=SyntheticModel(
                    hidden_size=384, num_heads=6, num_layers=work.num_layers, vocab_size=work.vocab_size
                )
            )
        ),
        find_machine("cpu"),
        {},
    ).policy.model
    flop = step_flop(
        model,
        model,
        rollouts=work.rollouts,
        prompt_tokens=work.prompt_tokens,
        response_tokens=work.response_tokens,
        unfrozen_blocks=work.unfrozen_blocks,
        epochs=work.epochs,
    )
    assert flop.total == pytest.approx(engine_flops(work))


def test_trlx_takes_the_published_operations() -> None:
    """27.5 PFLOP a step of 448 rollouts of 512 tokens; here prompts are shorter, and a step is 239 / 512 of that."""
    ppo = stage(planned("gptj-6b-trlx", "p4d.24xlarge"), "train_ppo")
    assert ppo.estimate.flop / 94 == pytest.approx(27.5e15 * 239.36 / 512, rel=0.04)
    assert not ppo.problems


def test_a_validation_of_trlx_by_hand() -> None:
    """128 prompts: 19 on a rank, in batches of 16 and 3; their responses are scored on one GPU."""
    rare, often = (
        stage(planned("gptj-6b-trlx", "p4d.24xlarge", f"ppo.validate_every={steps}"), "train_ppo").estimate
        for steps in (94, 47)
    )  # two and three validations
    blocks = 2 * 28 * BLOCK_WEIGHTS
    scored = 128 * 239.36 * blocks
    assert often.flop - rare.flop == pytest.approx(128 * (239.36 * blocks + 128 * 2 * OUTPUT) + scored, rel=1e-6)
    draws = 2 * 128 * (2 * GPT_J + 16 * 175 * 458_752) / MEMORY
    seconds = 19 * 111.36 * blocks / FORWARD + draws + scored / FORWARD
    assert often.seconds - rare.seconds == pytest.approx(seconds, rel=1e-6)


def test_what_does_not_fit_is_told_with_the_reason() -> None:
    """On one GPU nothing spreads 16 bytes a parameter: 96.8 GB and the rest."""
    plan = planned("gptj-6b", "h100", "compute.processes=1")
    [problem] = stage(plan, "train_sft").problems
    assert problem.startswith("train_sft needs 97.5 GB of each GPU, which has 83.9 GB free (AdamW 48.4 GB, weights 24")
    assert not stage(plan, "train_ppo").problems
    assert planned("gptj-6b", "h100").problems == ["compute.processes (8): h100 has 1 GPU(s); lower it"]
    kept = planned("gptj-6b", "p4d.24xlarge", "compute.accelerate=zero2")  # all weights in bfloat16 on each GPU
    assert stage(kept, "train_sft").estimate.memory["gathered"] == 2 * GPT_J
    unspread = planned("gptj-6b", "p4d.24xlarge", "compute.accelerate=gpu")
    assert "AdamW 48.4 GB" in stage(unspread, "train_sft").problems[0]


def test_two_machines_spread_the_state_and_cost_twice_as_much_an_hour(published: Plan) -> None:
    plan = planned(
        "gptj-6b",
        "p4d.24xlarge",
        "compute.machines=2",
        "compute.main_address=head",
        "compute.processes=16",
        "ppo.rollouts_per_step=448",
        "sft.batch_size=16",
        "reward.batch_size=64",
    )
    assert plan.problems == []
    assert plan.dollars_per_hour == 2 * 21.96
    assert stage(plan, "train_sft").estimate.memory["AdamW"] == 8 * GPT_J // 16
    assert (
        stage(plan, "train_sft").estimate.host_memory_bytes == stage(published, "train_sft").estimate.host_memory_bytes
    )


def test_a_price_of_ones_own_wins(published: Plan) -> None:
    own = planned("gptj-6b", "p4d.24xlarge", "compute.dollars_per_hour=10")
    assert own.dollars == pytest.approx(published.seconds / 3600 * 10)


def test_the_benchmark_says_what_a_cpu_reaches(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert read_benchmark(path) == {}
    path.write_text(json.dumps({"ppo.matmul_peak_gflops": 100, "ppo.matmul_share": 0.5, "note": "text"}))
    throughput = make_scenario(load_profile("quickstart"), find_machine("cpu"), read_benchmark(path)).throughput
    assert throughput.training == throughput.forward == 50e9
    assert "runs/bench.json" in throughput.source
    for content in ("[]", '{"ppo.matmul_share": NaN}', '{"ppo.matmul_share": 1e999}', "[" * 100_000, "9" * 5000):
        path.write_text(content)
        with pytest.raises(UserError, match=r"bench\.json: not the metrics of a benchmark"):
            read_benchmark(path)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.repository \(a/b\): its size is not known"):
        planned("gptj-6b", "p4d.24xlarge", "model.repository=a/b")


def test_rows_of_a_file_are_counted(tmp_path: Path) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("{}\n" * 200)
    plan = planned("quickstart", "cpu", f"data.source={rows}")
    assert plan.scenario.rows == 200
    assert plan.scenario.judge is not None
    assert (plan.scenario.pairs, plan.scenario.judge.pairs) == (125, 53)  # 178 kept, 30 % of them for the judge
    everything = planned("quickstart", "cpu", f"data.source={rows}", "data.judge_share=0").scenario
    assert (everything.pairs, everything.judge) == (178, None)
    limited = planned("quickstart", "cpu", f"data.source={rows}", "data.max_pairs=60").scenario
    assert limited.judge is not None
    assert (limited.pairs, limited.judge.pairs) == (60, 53)  # max_pairs does not limit the judge


def test_rows_of_every_data_file_of_a_folder_are_counted(tmp_path: Path) -> None:
    """Linked folders count, hidden files do not, as for the pipeline."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a.jsonl").write_text("{}\n" * 200)
    (tmp_path / "data" / "._a.jsonl").write_text("{}\n" * 7)
    (tmp_path / "elsewhere" / "b.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 30))
    parquet.write_table(pyarrow.table({"chosen": ["a"] * 4}), tmp_path / "elsewhere" / "c.parquet")
    settings = f"data.source={tmp_path / 'data'}"
    assert planned("quickstart", "cpu", settings).scenario.rows == 234
    (tmp_path / "data" / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"d\.parquet: cannot be read"):
        planned("quickstart", "cpu", settings)


def test_the_command_prints_every_step_and_where_numbers_come_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "gptj-6b", "--workspace", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "train_sft" in result.output
    assert "14.4 GB" in result.output
    assert "assumed shares of the peaks" in result.output
    small = CliRunner().invoke(app, ["plan", "gptj-6b", "--machine", "h100", "--workspace", str(tmp_path)])
    assert isinstance(small.exception, UserError)
