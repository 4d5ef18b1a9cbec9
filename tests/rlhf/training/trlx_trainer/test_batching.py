"""Order of the samples and number of the prompts that trlx receives."""

from __future__ import annotations

from rlhf.training.trlx_trainer.batching import PromptRow, Sample, pad_to_full_chunks, training_samples


def test_every_epoch_has_all_samples_in_a_new_order() -> None:
    samples: list[Sample] = [[f"prompt {number}", " answer"] for number in range(6)]
    order = training_samples(samples, batch_size=4, steps=3, seed=1)
    assert len(order) == 12
    epochs = order[:6], order[6:]
    assert all(sorted(epoch) == samples for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert training_samples(samples, batch_size=4, steps=2, seed=1) == order[:8]
    assert training_samples(samples, batch_size=4, steps=3, seed=2) != order


def test_prompts_fill_complete_chunks() -> None:
    prompts: list[PromptRow] = [{"prompt": str(number), "baseline": 0.5} for number in range(3)]
    filled = pad_to_full_chunks(prompts, 4)
    assert [row["prompt"] for row in filled] == ["0", "1", "2", "0"]
    assert filled[3] is not filled[0]  # trlx takes the text out of each
    assert [row["prompt"] for row in pad_to_full_chunks(prompts, 8)] == ["0", "1", "2", "0", "1", "2", "0", "1"]
    assert pad_to_full_chunks(prompts, 3) == prompts
