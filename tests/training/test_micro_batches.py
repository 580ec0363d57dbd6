"""Micro-batches: the same step as with the whole batch, as long as images do not see each other."""

import pytest
import torch

from coreface.errors import RecipeError
from coreface.training.recipe_sections import ContrastiveRecipe, OptimizerRecipe, StageRecipe

PLAIN = [StageRecipe(1, 1, 0.0)]


def freeze_statistics(trainer):
    """BatchNorm from its running statistics: what an image becomes does not depend on its batch."""
    trainer.encoder.eval()


@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_the_step_is_that_of_the_whole_batch(tiny, change, make_trainer, parts):
    whole = make_trainer(change(tiny, stages=PLAIN), "whole")
    split = make_trainer(change(tiny, stages=PLAIN, optimizer__micro_batches=parts), "split")
    images, identities = next(whole.loader.epoch(1))
    for trainer in (whole, split):
        freeze_statistics(trainer)
        for _ in range(3):
            losses, norm = trainer.train_step(0, 0.05, images, identities)
            trainer.result = losses, norm
    torch.testing.assert_close(split.result[0].total, whole.result[0].total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(split.result[1], whole.result[1], rtol=1e-3, atol=1e-4)
    expected = {**whole.encoder.state_dict(), **whole.objective.state_dict()}
    for name, value in {**split.encoder.state_dict(), **split.objective.state_dict()}.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_schedule_counts_optimizer_steps(tiny, change, make_trainer, rows):
    make_trainer(change(tiny, optimizer__micro_batches=3, optimizer__lr_drops=[2])).train()
    assert [row["step"] for row in rows("step")] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in rows("step")] == pytest.approx([0.05] * 2 + [0.005] * 4)


def test_the_contrastive_term_sees_a_part_at_a_time_and_the_run_says_so(tiny, change, make_trainer, screen, rows):
    term = [StageRecipe(1, 2, 0.1, ContrastiveRecipe())]
    make_trainer(change(tiny, stages=term), "whole").train(until_epoch=1)
    assert "part" not in screen.text
    make_trainer(change(tiny, stages=term, optimizer__micro_batches=2), "split").train(until_epoch=1)
    assert "2 micro-batches of 9 images" in screen.text
    assert "contrastive term compares the images of one micro-batch only" in screen.text
    whole, split = (sum(row["masked"] for row in rows("step", name)) for name in ("whole", "split"))
    assert 0 < split < whole  # pairs of one identity across the parts are not met


@pytest.mark.parametrize(("images", "sizes"), [(18, [5, 5, 4, 4]), (7, [3, 2, 2]), (3, [3]), (2, [2])])
def test_no_part_has_a_single_image(tiny, change, make_trainer, monkeypatch, images, sizes):
    trainer = make_trainer(change(tiny, stages=PLAIN, optimizer__micro_batches=4))
    trainer.encoder.train()
    seen = []
    views = trainer.encoder.views
    monkeypatch.setattr(
        trainer.encoder, "views", lambda batch, *a, **k: (seen.append(len(batch)), views(batch, *a, **k))[1]
    )
    batch, identities = next(trainer.loader.epoch(1))
    trainer.train_step(0, 0.01, batch[:images], identities[:images])
    assert seen == sizes


@pytest.mark.parametrize("parts", [0, -1, 10])
def test_parts_out_of_range(parts):
    with pytest.raises(RecipeError, match=r"optimizer.micro_batches"):
        OptimizerRecipe(batch_size=18, micro_batches=parts)


def test_sizes_of_uneven_parts_are_said(tiny, change, make_trainer, screen):
    make_trainer(change(tiny, stages=PLAIN, optimizer__micro_batches=5)).train(until_epoch=1)
    assert "5 micro-batches of 3 or 4 images" in screen.text
