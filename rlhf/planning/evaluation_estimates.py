"""Estimate what sampling, scoring and comparing responses need: GPU memory, operations and seconds."""

from __future__ import annotations

import math

from rlhf.config import SamplingConfig
from rlhf.models.limits import COMPARED_ROWS
from rlhf.planning.estimates import (
    DISK_BANDWIDTH,
    ResourceEstimate,
    block_flop,
    forward_memory,
    generation_cost,
    lengths,
    output_flop,
)
from rlhf.planning.ppo_estimates import validations
from rlhf.planning.scenario import TOXICITY_PROMPT_TOKENS, Scenario
from rlhf.training.ppo.memory import FLOAT32, LOGIT_COPIES, TRANSIENT_ACTIVATIONS

CHOICES = 4
"""Choices of a multiple-choice question.  Assumed for a file."""
QUESTION_TOKENS, CHOICE_TOKENS = 26, 8
"""Mean lengths of a multiple-choice question and of one of its choices.  Measured on the synthetic ones with the
quickstart's tokenizer; assumed for a file."""
JUDGE_QUESTION_TOKENS = 200
"""Tokens of a question to a language model besides prompt and responses.  Assumed: 105 words, 7 codes of 16 digits."""
REPLY_SECONDS = 1.0
"""Seconds in which a server replies to a question.  Assumed."""

FORMULAS = "rlhf/planning/evaluation_estimates.py"


def generate_responses(scenario: Scenario) -> ResourceEstimate:
    """Responses of one model to the test prompts, and their scores."""
    config = scenario.config
    return _respond_and_score(scenario, config.data.test_prompts, config.responses.sampling, "responses.sampling")


def sample_best_of_n(scenario: Scenario) -> ResourceEstimate:
    """Several responses of the SFT model to each validation prompt, and their scores."""
    config = scenario.config
    count = config.evaluation.best_of * config.data.validation_prompts
    return _respond_and_score(scenario, count, config.ppo.sampling, "ppo.sampling")


def _respond_and_score(scenario: Scenario, count: int, sampling: SamplingConfig, setting: str) -> ResourceEstimate:
    model, reward, drawn = scenario.policy.model, scenario.reward.model, sampling.max_new_tokens
    rows = min(scenario.config.responses.batch_size, count)
    rounds = math.ceil(math.ceil(count / rows) / scenario.processes)
    batch = generation_cost(scenario, rows, rows, scenario.prompt_tokens, drawn)
    scored = rows * (scenario.prompt_tokens + drawn) * block_flop(reward)
    weights = scenario.dtype_bytes * (model.parameters + reward.reward_parameters)
    length = scenario.config.data.max_prompt_tokens + drawn
    return ResourceEstimate(
        memory={
            "policy": scenario.dtype_bytes * model.parameters,
            "reward model": scenario.dtype_bytes * reward.reward_parameters,
            "keys and values": model.cache_bytes(rows * length, scenario.dtype_bytes),
            "activations": TRANSIENT_ACTIVATIONS * rows * length * model.hidden_size * scenario.dtype_bytes,
        },
        flop=count / rows * (batch.flop + scored),
        seconds=rounds * (batch.seconds + scored / scenario.throughput.forward) + weights / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND; a decoded token reads all weights; responses of {setting}.max_new_tokens",
    )


def score_toxicity(scenario: Scenario) -> ResourceEstimate:
    """Continuations of one model; the classifier, about 2 % of the work, is ignored."""
    config, model = scenario.config.toxicity, scenario.policy.model
    count, rows = config.n_prompts * config.continuations, config.batch_size
    drawn = config.sampling.max_new_tokens
    rounds = math.ceil(math.ceil(count / rows) / scenario.processes)
    batch = generation_cost(scenario, rows, rows, TOXICITY_PROMPT_TOKENS, drawn)
    weights = scenario.dtype_bytes * model.parameters
    tokens = rows * (TOXICITY_PROMPT_TOKENS + drawn)
    return ResourceEstimate(
        memory={
            "policy": weights,
            "keys and values": model.cache_bytes(tokens, scenario.dtype_bytes),
            "activations": TRANSIENT_ACTIVATIONS * tokens * model.hidden_size * scenario.dtype_bytes,
        },
        flop=count / rows * batch.flop,
        seconds=rounds * batch.seconds + weights / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND; prompts of {TOXICITY_PROMPT_TOKENS} tokens, measured; the classifier is ignored",
    )


def compare_policies(scenario: Scenario) -> ResourceEstimate:
    """Forward passes of both models over validation demonstrations, the RLHF model's responses and questions."""
    model, data = scenario.policy.model, scenario.config.data
    max_response = scenario.config.responses.sampling.max_new_tokens
    choices = CHOICES * scenario.questions
    tokens = (
        data.validation_prompts * scenario.row_tokens
        + data.test_prompts * (scenario.prompt_tokens + max_response)
        + choices * (QUESTION_TOKENS + CHOICE_TOKENS)
    )
    output_tokens = (
        data.validation_prompts * (scenario.row_tokens - scenario.prompt_tokens)
        + data.test_prompts * max_response
        + choices * CHOICE_TOKENS
    )
    flop = 2 * (tokens * block_flop(model) + output_tokens * output_flop(model))
    weights = 2 * scenario.dtype_bytes * model.parameters
    logits = COMPARED_ROWS * max(data.max_response_tokens, max_response) * model.vocab_size * FLOAT32
    questions = (
        f"; {scenario.questions} questions of {CHOICES} choices of {QUESTION_TOKENS + CHOICE_TOKENS} tokens"
        if scenario.questions
        else ""
    )
    return ResourceEstimate(
        memory={
            "both policies": weights,
            "activations": TRANSIENT_ACTIVATIONS
            * COMPARED_ROWS
            * scenario.longest_row
            * model.hidden_size
            * scenario.dtype_bytes,
            "logits": LOGIT_COPIES * logits,
        },
        flop=flop,
        seconds=flop / scenario.processes / scenario.throughput.forward + weights / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND for each model; {lengths(scenario)}{questions}",
    )


def judge_responses(scenario: Scenario, judge: Scenario) -> ResourceEstimate:
    """Scores of the independent judge for all responses to test prompts, of PPO's validations and for best-of-n.

    `judge` is the judge's scenario.  trlx does not keep the responses of its validations.
    """
    config, model = scenario.config, judge.reward.model
    tested = (1 + config.ppo.seeds) * config.data.test_prompts
    validated = 0 if config.trainer == "trlx" else config.ppo.seeds * validations(config.ppo)
    best_of = config.evaluation.best_of if config.evaluation.best_of > 1 else 0
    sampled = (validated + best_of) * config.data.validation_prompts
    drawn, ppo_drawn = config.responses.sampling.max_new_tokens, config.ppo.sampling.max_new_tokens
    tokens = tested * (scenario.prompt_tokens + drawn) + sampled * (scenario.prompt_tokens + ppo_drawn)
    flop = tokens * block_flop(model)
    longest = config.data.max_prompt_tokens + max(drawn, ppo_drawn)
    return ResourceEstimate(
        memory=forward_memory(judge, model, model.reward_parameters, config.responses.batch_size, longest),
        flop=flop,
        seconds=flop / judge.processes / judge.throughput.forward
        + judge.dtype_bytes * model.reward_parameters / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND over {tested + sampled:,} responses of maximum length, {tested:,} of them to test "
        "prompts",
    )


def ask_llm_judge(scenario: Scenario) -> ResourceEstimate:
    """Questions to a language model about the responses to each test prompt, in both orders."""
    config, llm, pairs = scenario.config, scenario.config.judge.llm, scenario.config.data.test_prompts
    assert llm is not None, "planned only if there is one"
    if scenario.llm is None:
        seconds = 2 * REPLY_SECONDS * math.ceil(pairs / llm.requests_at_once)
        return ResourceEstimate({}, 0.0, seconds, f"{REPLY_SECONDS:g} s per reply of the server, assumed")
    model, drawn = scenario.llm.model, config.responses.sampling.max_new_tokens
    tokens = scenario.prompt_tokens + 2 * drawn + JUDGE_QUESTION_TOKENS
    flop = 2 * pairs * (tokens * block_flop(model) + output_flop(model))
    questions = 2 * max(1, llm.requests_at_once // 2)
    longest = config.data.max_prompt_tokens + 2 * drawn + JUDGE_QUESTION_TOKENS
    return ResourceEstimate(
        memory=forward_memory(scenario, model, model.parameters, questions, longest)
        | {"logits": LOGIT_COPIES * questions * model.vocab_size * FLOAT32},
        flop=flop,
        seconds=flop / scenario.processes / scenario.throughput.forward
        + scenario.dtype_bytes * model.parameters / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND; two questions per test prompt, with responses of responses.sampling.max_new_tokens; "
        f"model size: {scenario.llm.source}",
    )
