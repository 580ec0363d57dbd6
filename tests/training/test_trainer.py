"""The loop: what it learns, what it writes, and that nothing but the recipe decides it."""

import copy
import math

import cv2
import numpy as np
import pytest
import torch

from coreface.data import Augmentation, FaceLoader, RecordReader, RecordWriter, open_faces
from coreface.errors import ConstantEmbeddingsError, DataError, EvaluationError, ModelError, RecipeError
from coreface.models.encoder import FaceEncoder
from coreface.models.row_masks import RowMasks
from coreface.training.recipe_data import AugmentRecipe
from coreface.training.recipe_sections import ContrastiveRecipe, StageRecipe
from coreface.training.samples import save_samples
from support.evaluated import Evaluated

TIMES = ("images_per_second", "waiting")


def weights(trainer):
    """Everything a trainer's future depends on, by name."""
    state = {f"encoder.{name}": value for name, value in trainer.encoder.state_dict().items()}
    state |= {f"objective.{name}": value for name, value in trainer.objective.state_dict().items()}
    for index, entry in trainer.stepper.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    return state


def same(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name]))] == []


def untimed(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


# Learning


def test_the_loss_goes_down_and_strangers_are_told_apart(tiny, change, make_trainer, rows):
    recipe = change(tiny, stages=[StageRecipe(dropout=0.0)], optimizer__epochs=8, optimizer__lr=0.1)
    trainer = make_trainer(recipe)
    trainer.train()
    losses = [row["loss"] for row in rows("step")]
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_both_stages_learn(tiny, change, make_trainer, rows):
    trainer = make_trainer(change(tiny, optimizer__epochs=8, optimizer__lr=0.1))
    trainer.train()
    by_epoch = {row["epoch"]: row["classification"] for row in rows("step")}
    assert by_epoch[8] < 0.7 * by_epoch[2]


def test_training_reaches_every_weight(tiny, make_trainer):
    trainer = make_trainer(tiny)
    before = copy.deepcopy(weights(trainer))
    trainer.train()
    after = weights(trainer)
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []


# One step by hand


def gradient_by_hand(encoder, weight, images, identities):
    """Gradients of ArcFace (s = 64, m = 0.5) on one view without dropout, by the formula with arccos."""
    embeddings = torch.nn.functional.normalize(encoder(images))
    cosines = embeddings @ torch.nn.functional.normalize(weight).T
    rows = torch.arange(len(images))
    logits = cosines.clone()
    logits[rows, identities] = torch.cos(torch.acos(cosines[rows, identities]) + 0.5)
    loss = -torch.log_softmax(64 * logits, dim=1)[rows, identities].mean()
    parameters = [p for p in encoder.parameters() if p.requires_grad] + [weight]
    return loss, parameters, list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize(
    ("backbone", "clip"), [("toy", "all"), ("toy", "backbone"), ("toy", None), ("mobilefacenet", "all")]
)
def test_sgd_equals_a_loop_written_by_hand(tiny, change, make_trainer, faces, rows, backbone, clip):
    largest = None if clip is None else 0.5
    # At 16 pixels MobileFaceNet's last map is one pixel, and four steps turn a difference of rounding into 0.1 %.
    size = 16 if backbone == "toy" else 32
    recipe = change(
        tiny,
        model__backbone=backbone,
        data__image_size=size,
        stages=[StageRecipe(dropout=0.0)],
        optimizer__lr=0.01,
        optimizer__momentum=0.8,
        optimizer__weight_decay=0.1,
        optimizer__epochs=2,
        optimizer__lr_drops=[2],
        optimizer__clip_norm=largest,
        optimizer__clip=clip or "all",
    )
    trainer = make_trainer(recipe)
    encoder = copy.deepcopy(trainer.encoder).train()
    encoder.dropout = 0.0
    weight = trainer.objective.classifier.weight.detach().clone().requires_grad_()
    momentum = None
    norms, losses = [], []
    loader = FaceLoader(faces, 18, image_size=size, seed=recipe.seed)
    for epoch, rate in ((1, 0.01), (2, 0.001)):
        for images, identities in loader.epoch(epoch):
            loss, parameters, gradients = gradient_by_hand(encoder, weight, images, identities)
            losses.append(float(loss.detach()))
            if clip is not None:
                clipped = gradients if clip == "all" else gradients[:-1]
                norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in clipped))
                norms.append(norm)
                assert norm > largest  # or clipping would go untested
                for gradient in clipped:
                    gradient *= largest / norm
            with torch.no_grad():
                steps = [g + 0.1 * p for g, p in zip(gradients, parameters, strict=True)]
                old = momentum or [torch.zeros_like(step) for step in steps]
                momentum = [0.8 * was + step for was, step in zip(old, steps, strict=True)]
                for parameter, step in zip(parameters, momentum, strict=True):
                    parameter -= rate * step
    trainer.train()
    assert [row["loss"] for row in rows("step")] == pytest.approx(losses, rel=1e-4)
    if clip is not None:
        assert [row["gradient_norm"] for row in rows("step")] == pytest.approx(norms, rel=1e-3)
    torch.testing.assert_close(trainer.objective.classifier.weight, weight, rtol=1e-4, atol=1e-6)
    expected = encoder.state_dict()
    for name, value in trainer.encoder.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_one_step_with_two_views_equals_a_loop_of_public_parts(tiny, change, make_trainer, faces):
    """The masks come from the seed, the number of the step and the places of the images in the batch."""
    from coreface.losses.classifier import MarginClassifier
    from coreface.losses.contrastive import CoReFaceLoss
    from coreface.losses.margins import ArcFace

    term = ContrastiveRecipe(weight=0.7, scale=30, ema=0.5, mask="zero", protocol="all")
    recipe = change(tiny, stages=[StageRecipe(1, 2, 0.3, term)], optimizer__epochs=1, optimizer__clip_norm=None)
    recipe = change(recipe, optimizer__batch_size=36)  # one step
    trainer = make_trainer(recipe)
    torch.manual_seed(recipe.seed)
    encoder = FaceEncoder("toy", 16, 16).to(memory_format=torch.channels_last)
    classify = MarginClassifier(ArcFace(64, 0.5), 16, faces.num_identities)
    contrast = CoReFaceLoss(30, "adaptive", 0.5, "zero", "all")
    optimizer = torch.optim.SGD([*encoder.parameters(), *classify.parameters()], 0.05, 0.9, weight_decay=5e-4)
    images, identities = next(FaceLoader(faces, 36, image_size=16, seed=recipe.seed).epoch(1))
    one, two = encoder.views(images, 2, 0.3, masks=RowMasks(recipe.seed, 0, torch.arange(36)))
    assert not torch.equal(one, two)
    loss = (classify(one, identities) + classify(two, identities)) / 2 + 0.7 * contrast(one, two, identities)
    loss.backward()
    optimizer.step()
    trainer.train()
    torch.testing.assert_close(trainer.objective.classifier.weight, classify.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(trainer.objective.contrasts["0"].running_margin, contrast.running_margin)
    expected = encoder.state_dict()
    for name, value in trainer.encoder.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-6)


def test_adamw_is_torch_s_with_momentum_as_its_first_beta(tiny, change, make_trainer, rows):
    adamw = {"optimizer__name": "adamw", "optimizer__momentum": 0.7, "optimizer__weight_decay": 0.05}
    recipe = change(tiny, **adamw, optimizer__lr=2e-3, optimizer__epochs=6)
    trainer = make_trainer(recipe)
    assert isinstance(trainer.stepper.optimizer, torch.optim.AdamW)
    (group,) = trainer.stepper.optimizer.param_groups
    assert group["betas"] == (0.7, 0.999)
    assert group["weight_decay"] == 0.05
    trainer.train()
    losses = [row["classification"] for row in rows("step")]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_every_weight_that_learns_is_decayed(tiny, make_trainer):
    trainer = make_trainer(tiny)
    (group,) = trainer.stepper.optimizer.param_groups
    learning = {id(p) for p in [*trainer.encoder.parameters(), *trainer.objective.parameters()] if p.requires_grad}
    assert {id(p) for p in group["params"]} == learning
    assert group["weight_decay"] == 5e-4


def test_the_rate_in_the_optimizer_is_the_one_that_is_logged(tiny, change, make_trainer, rows, monkeypatch):
    recipe = change(tiny, optimizer__warmup_epochs=1.0, optimizer__lr_drops=[3], optimizer__lr=0.04)
    trainer = make_trainer(recipe)
    used = []
    step = trainer.stepper.optimizer.step
    monkeypatch.setattr(
        trainer.stepper.optimizer,
        "step",
        lambda: (used.append(trainer.stepper.optimizer.param_groups[0]["lr"]), step()),
    )
    trainer.train()
    assert used == pytest.approx([0, 0.02, 0.04, 0.04, 0.004, 0.004])
    assert [row["lr"] for row in rows("step")] == used


# Nothing but the recipe decides


def test_two_runs_of_a_recipe_are_the_same_to_the_last_bit(tiny, make_trainer, rows):
    one, other = make_trainer(tiny, "one"), make_trainer(tiny, "other")
    one.train()
    torch.rand(7)  # what the program does beside it has no influence
    np.random.rand(7)  # noqa: NPY002
    other.train()
    assert same(weights(one), weights(other))
    assert untimed(rows("step", "one")) == untimed(rows("step", "other"))


@pytest.mark.parametrize("field", ["seed", "dropout", "weight"])
def test_and_another_recipe_gives_another_run(tiny, change, make_trainer, field):
    other = change(tiny, seed=2) if field == "seed" else None
    if field == "dropout":
        other = change(tiny, stages=[StageRecipe(dropout=0.21), tiny.stages[1]])
    if field == "weight":
        weaker = ContrastiveRecipe(weight=0.4, ema=0.5)
        other = change(tiny, stages=[tiny.stages[0], StageRecipe(2, 2, 0.3, weaker)])
    trainers = [make_trainer(tiny, "one"), make_trainer(other, "other")]
    for trainer in trainers:
        trainer.train(until_epoch=2)
    assert not same(*map(weights, trainers))


def test_workers_change_nothing(tiny, change, make_trainer, rows):
    alone = make_trainer(tiny, "alone")
    alone.train()
    helped = make_trainer(change(tiny, data__workers=2), "helped")
    helped.train()
    assert untimed(rows("step", "alone")) == untimed(rows("step", "helped"))
    assert same(weights(alone), weights(helped))


def test_how_often_is_measured_and_logged_changes_nothing(tiny, change, make_trainer):
    def measure(encoder):
        encoder.eval()
        encoder.embed(np.zeros((2, 16, 16, 3), np.uint8))
        return {"eer": 0.5}

    often = make_trainer(tiny, "often", evaluated=[Evaluated(measure)])
    often.train()
    seldom = make_trainer(change(tiny, evaluation__every=9, log_every=100), "seldom")
    seldom.train()
    assert same(weights(often), weights(seldom))


def test_the_program_s_own_randomness_is_left_alone(tiny, make_trainer):
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    trainer = make_trainer(tiny)
    trainer.train()
    assert torch.equal(torch.rand(4), expected)


def test_an_error_leaves_the_program_s_randomness_alone_too(tiny, make_trainer):
    def fail(encoder):
        raise KeyboardInterrupt

    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tiny, evaluated=[Evaluated(fail)]).train()
    assert torch.equal(torch.rand(4), expected)


def test_stopping_between_epochs_changes_nothing(tiny, make_trainer):
    whole, parts = make_trainer(tiny, "whole"), make_trainer(tiny, "parts")
    whole.train()
    parts.train(until_epoch=1)
    assert (parts.epoch, parts.step) == (1, 2)
    parts.train(until_epoch=2)
    torch.rand(3)
    parts.train()
    assert (parts.epoch, parts.step) == (3, 6)
    assert same(weights(whole), weights(parts))


@pytest.mark.parametrize("epoch", [1, 2])
def test_taking_over_goes_on_as_if_nothing_had_happened(tiny, make_trainer, rows, epoch):
    """Epoch 2 is in the middle of the stage whose running margin must come along."""
    whole, first, second = (make_trainer(tiny, name) for name in ("whole", "first", "second"))
    whole.train()
    first.train(until_epoch=epoch)
    second.take_over(first)
    second.train()
    assert same(weights(whole), weights(second))
    assert untimed(rows("step", "whole"))[2 * epoch :] == untimed(rows("step", "second"))
    assert (second.epoch, second.step) == (3, 6)


def test_what_was_taken_over_is_a_copy(tiny, make_trainer):
    first, second = make_trainer(tiny, "first"), make_trainer(tiny, "second")
    first.train(until_epoch=1)
    before = copy.deepcopy(weights(first))
    second.take_over(first)
    second.train()
    assert same(before, weights(first))
    third = make_trainer(tiny, "third")
    third.take_over(first)
    third.train()
    assert same(weights(second), weights(third))


def test_adamw_is_taken_over_as_well(tiny, change, make_trainer):
    recipe = change(tiny, optimizer__name="adamw", optimizer__lr=1e-3)
    whole, first, second = (make_trainer(recipe, name) for name in ("whole", "first", "second"))
    whole.train()
    first.train(until_epoch=1)
    second.take_over(first)
    second.train()
    assert same(weights(whole), weights(second))


# Stages


def test_a_stage_changes_views_dropout_and_losses_at_its_epoch(tiny, change, make_trainer, rows, monkeypatch):
    third = StageRecipe(from_epoch=3, views=3, dropout=0.1)
    trainer = make_trainer(change(tiny, stages=[*tiny.stages, third], optimizer__epochs=4))
    asked = []
    views = trainer.encoder.views

    def spy(images, count, dropout, *, statistics, masks):
        asked.append((count, dropout, statistics))
        return views(images, count, dropout, statistics=statistics, masks=masks)

    monkeypatch.setattr(trainer.encoder, "views", spy)
    trainer.train()
    separate = [(1, 0.2, "separate"), (2, 0.3, "separate"), (3, 0.1, "separate"), (3, 0.1, "separate")]
    assert asked == [stage for stage in separate for _ in range(2)]
    with_term = [row["epoch"] for row in rows("step") if "contrastive" in row]
    assert with_term == [2, 2]


def test_view_statistics_reach_the_encoder(tiny, change, make_trainer):
    separate, joint = (
        make_trainer(tiny, "separate"),
        make_trainer(change(tiny, model__view_statistics="joint"), "joint"),
    )
    for trainer in (separate, joint):
        trainer.train(until_epoch=1)
    assert same(weights(separate), weights(joint))  # one view: the same thing
    for trainer in (separate, joint):
        trainer.train(until_epoch=2)
    assert not same(weights(separate), weights(joint))


# What is written


def test_rows_of_steps_have_the_documented_keys(tiny, make_trainer, rows):
    make_trainer(tiny).train()
    plain = {"kind", "step", "epoch", "lr", "loss", "classification", "gradient_norm", "skipped", *TIMES}
    contrast = {"contrastive", "positive", "hardest_negative", "margin", "masked"}
    assert [set(row) for row in rows("step")] == [plain] * 2 + [plain | contrast] * 4
    assert [row["step"] for row in rows("step")] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows("step")] == [1, 1, 2, 2, 3, 3]
    for row in rows("step"):
        assert 0 <= row["waiting"] <= 1
        assert row["images_per_second"] > 0
        if "contrastive" in row:
            assert row["loss"] == pytest.approx(row["classification"] + 0.5 * row["contrastive"], rel=1e-5)
            assert -1 <= row["hardest_negative"] <= 1
            assert row["masked"] > 0  # 18 images of 6 identities


def test_without_clipping_there_is_no_norm(tiny, change, make_trainer, rows):
    make_trainer(change(tiny, optimizer__clip_norm=None)).train(until_epoch=1)
    assert all("gradient_norm" not in row for row in rows("step"))


def test_rows_are_means_over_their_steps_and_the_rest_of_an_epoch_gets_one(tiny, change, make_trainer, rows):
    make_trainer(tiny, "each").train()
    each = [row["loss"] for row in rows("step", "each")]
    make_trainer(change(tiny, log_every=4), "few").train()
    few = rows("step", "few")
    assert [row["step"] for row in few] == [2, 4, 6]
    assert [row["loss"] for row in few] == pytest.approx(
        [(a + b) / 2 for a, b in zip(each[::2], each[1::2], strict=True)]
    )


def test_what_is_not_finite_is_null(tiny, change, make_trainer, paint_faces, tmp_path, rows):
    """Batches of one identity have no negative: the mean over none is not a number."""
    folder = paint_faces(tmp_path / "two", identities=2, images=2)
    for image in (folder / "person01").iterdir():
        image.write_bytes(b"spoilt")
    stages = [StageRecipe(1, 2, 0.1, ContrastiveRecipe())]
    recipe = change(tiny, optimizer__batch_size=4, stages=stages, data__max_unreadable=0.5)
    make_trainer(recipe, source=open_faces(folder)).train(until_epoch=1)
    (row,) = rows("step")
    assert row["hardest_negative"] is None
    assert row["contrastive"] == 0
    assert row["margin"] == 0


@pytest.mark.parametrize("augment", [{}, {"scale": [0.8, 1.2], "rotate": 20.0, "crop": 0.5, "erase": 0.5}])
def test_samples_show_the_first_batch_as_the_network_sees_it(tiny, change, make_trainer, faces, tmp_path, augment):
    make_trainer(change(tiny, data__augment=AugmentRecipe(**augment))).train(until_epoch=1)
    augmentation = Augmentation(**augment) if augment else None
    images, _ = next(FaceLoader(faces, 18, image_size=16, seed=tiny.seed, augment=augmentation).epoch(1))
    picture = cv2.imread(str(tmp_path / "run" / "samples.png"))[:, :, ::-1]
    assert picture.shape == (3 * 16, 8 * 16, 3)
    for index, image in enumerate(images):
        top, left = 16 * (index // 8), 16 * (index % 8)
        pixels = ((image.permute(1, 2, 0).numpy() + 1) * 127.5).round()
        np.testing.assert_array_equal(picture[top : top + 16, left : left + 16], pixels)
    assert not picture[32:, 32:].any()  # 18 images leave the last row unfilled


@pytest.mark.parametrize(("count", "rows_of_eight"), [(2, 1), (8, 1), (9, 2), (32, 4), (100, 4)])
def test_samples_of_any_number(tmp_path, count, rows_of_eight):
    save_samples(torch.ones(count, 3, 16, 16), tmp_path / "samples.png")
    picture = cv2.imread(str(tmp_path / "samples.png"))
    assert picture.shape == (16 * rows_of_eight, 128, 3)
    assert (picture == 255).all(axis=2).sum() == 16 * 16 * min(count, 32)


@pytest.mark.parametrize(("every", "epochs", "expected"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (9, 2, [2])])
def test_measuring_comes_every_so_many_epochs_and_at_the_end(
    tiny, change, make_trainer, rows, every, epochs, expected, tmp_path
):
    recipe = change(tiny, optimizer__epochs=epochs, evaluation__every=every, stages=tiny.stages[:1])
    saved = []

    def measure(encoder):
        loaded = FaceEncoder.from_pretrained(tmp_path / "run" / "encoder")  # written before it is measured
        saved.append(same(loaded.state_dict(), encoder.state_dict()))
        return {"eer": 0.25, "tar": None, "genuine": 3}

    trainer = make_trainer(recipe, evaluated=[Evaluated(measure)])
    trainer.train()
    measured = rows("evaluation")
    assert [row["epoch"] for row in measured] == expected
    assert [row["step"] for row in measured] == [2 * epoch for epoch in expected]
    assert all((row["eer"], row["tar"], row["genuine"]) == (0.25, None, 3) for row in measured)
    assert saved == [True] * len(expected)


def test_without_an_evaluator_the_encoder_is_saved_all_the_same(tiny, make_trainer, rows, tmp_path):
    trainer = make_trainer(tiny)
    trainer.train()
    loaded = FaceEncoder.from_pretrained(tmp_path / "run" / "encoder")
    assert same(loaded.state_dict(), trainer.encoder.state_dict())
    assert rows("evaluation") == []


def test_an_encoder_that_cannot_be_measured_does_not_end_the_run(tiny, make_trainer, rows, screen):
    answers = iter([EvaluationError("all embeddings are the same"), {"eer": 0.3}, {"eer": 0.2}])

    def measure(encoder):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    trainer = make_trainer(tiny, evaluated=[Evaluated(measure)])
    trainer.train()
    assert trainer.epoch == 3
    first, second, third = rows("evaluation")
    assert first == {"kind": "evaluation", "step": 2, "epoch": 1, "error": "all embeddings are the same"}
    assert (second["eer"], third["eer"]) == (0.3, 0.2)
    assert "epoch 1: not measured: all embeddings are the same" in screen.text
    assert "epoch 2: eer 0.3000" in screen.text


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_same_embedding_for_all_is_no_collapse_in_the_first_steps(
    tiny, change, make_trainer, rows, screen, monkeypatch, epochs
):
    def measure(encoder):
        raise ConstantEmbeddingsError("all 12 embeddings are the same: the encoder has collapsed")

    early = "all images still get the same embedding, which is usual after no more than {} steps"
    late = "all 12 embeddings are the same: the encoder has collapsed"
    make_trainer(change(tiny, optimizer__epochs=epochs), evaluated=[Evaluated(measure)]).train()
    expected = [*(early.format(2 * epoch) for epoch in range(1, epochs)), late]  # nothing comes after the last epoch
    assert [row["error"] for row in rows("evaluation")] == expected
    for epoch, reason in enumerate(expected, 1):
        assert f"epoch {epoch}: not measured: {reason}\n" in screen.text
    monkeypatch.setattr("coreface.training.evaluating._SETTLED_STEPS", 4)
    make_trainer(change(tiny, optimizer__epochs=epochs), "later", evaluated=[Evaluated(measure)]).train()
    found = [row["error"] for row in rows("evaluation", "later")]
    assert found == ([early.format(2), late, late] if epochs == 3 else [late])


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("a bug"), "ValueError: a bug"), (DataError("cut off"), "cut off"), (MemoryError(), "MemoryError: ")],
)
def test_no_error_of_an_evaluation_ends_the_run(tiny, make_trainer, rows, error, reason):
    def measure(encoder):
        raise error

    sets = [Evaluated(measure), Evaluated(lambda encoder: {"eer": 0.5}, "other", held_out=False)]
    trainer = make_trainer(tiny, evaluated=sets)
    trainer.train()
    assert trainer.epoch == 3
    assert [row["error"] for row in rows("evaluation")] == [reason] * 3
    assert [(row["name"], row["eer"]) for row in rows("set")] == [("other", 0.5)] * 3


# Bad input


@pytest.fixture
def spoilt(paint_faces, tmp_path):
    folder = paint_faces(tmp_path / "spoilt")
    (folder / "person02" / "3.png").write_bytes(b"not an image")
    (folder / "person04" / "0.png").write_bytes(b"")
    return folder


def test_unreadable_images_are_counted_listed_and_left_out(tiny, make_trainer, spoilt, tmp_path, rows, screen):
    trainer = make_trainer(tiny, source=open_faces(spoilt))
    trainer.train()
    assert trainer.epoch == 3
    listed = (tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert len(listed) == 2
    assert "person02/3.png" in listed[0]
    assert "person04/0.png" in listed[1]
    assert screen.text.count("2 unreadable images left out") == 1  # said once, not every epoch
    assert len(rows("step")) == 6


def test_workers_report_unreadable_images_too(tiny, change, make_trainer, spoilt, tmp_path):
    make_trainer(change(tiny, data__workers=1), source=open_faces(spoilt)).train(until_epoch=1)
    assert len((tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()) == 2


def test_readable_images_leave_no_list(tiny, make_trainer, tmp_path):
    make_trainer(tiny).train(until_epoch=1)
    assert not (tmp_path / "run" / "unreadable.txt").exists()


def test_nothing_readable_at_all_is_an_error(tiny, change, make_trainer, spoilt, tmp_path):
    for image in spoilt.glob("*/*.png"):
        image.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"unreadable\.txt"):
        make_trainer(change(tiny, data__max_unreadable=1.0), source=open_faces(spoilt)).train()
    assert len((tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()) == 36


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_in_the_middle_of_training_stops_it_above_the_share(
    tiny, change, make_trainer, toy_folder, tmp_path, screen, workers
):
    """Four of 36 are more than a tenth; the file was whole when training began."""
    path = tmp_path / "train.rec"
    faces = open_faces(toy_folder)
    with RecordWriter(path, identities=True) as writer:
        for index in range(len(faces)):
            writer.write(faces.encoded(index), int(faces.identities[index]))
    source = open_faces(path)
    trainer = make_trainer(change(tiny, data__workers=workers), source=source)
    trainer.train(until_epoch=1)
    assert trainer.loader.unreadable == {}
    reader = RecordReader(path)
    with path.open("r+b") as file:
        for key in (3, 10, 20):
            file.seek(int(reader.offsets[key]) + 100)
            file.write(bytes(64))
    trainer.train(until_epoch=2)
    assert trainer.epoch == 2
    assert sorted(trainer.loader.unreadable) == [2, 9, 19]
    with path.open("r+b") as file:
        file.truncate(int(reader.offsets[30]))
    with pytest.raises(DataError, match=r"of 36 images cannot be read, expected at most 10\.00%.*max_unreadable"):
        trainer.train()
    assert trainer.epoch == 2
    listed = (tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert len(listed) > 3
    assert sum("train.rec" in line for line in listed) == len(listed)
    assert "unreadable images left out" in screen.text


def test_more_images_a_batch_than_there_are(tiny, change, make_trainer):
    with pytest.raises(DataError, match="36 images cannot fill one batch of 37"):
        make_trainer(change(tiny, optimizer__batch_size=37))


def test_one_identity_is_not_enough(tiny, make_trainer, paint_faces, tmp_path):
    folder = paint_faces(tmp_path / "one", identities=1, images=20)
    with pytest.raises(DataError, match="at least 2 identities, got 1"):
        make_trainer(tiny, source=open_faces(folder))


def test_an_unknown_backbone(tiny, change, make_trainer):
    with pytest.raises(ModelError, match="did you mean 'mobilefacenet'"):
        make_trainer(change(tiny, model__backbone="mobilfacenet"))


def test_a_device_that_is_not_there(tiny, change, make_trainer):
    with pytest.raises(RecipeError, match="cuda:99"):
        make_trainer(change(tiny, device="cuda:99"))


# Precision and compilation


def test_bf16_trains_weights_of_float32(tiny, change, make_trainer, rows):
    make_trainer(tiny, "float32").train(until_epoch=2)
    trainer = make_trainer(change(tiny, precision="bf16"), "bf16")
    trainer.train(until_epoch=2)
    assert {p.dtype for p in trainer.encoder.parameters()} == {torch.float32}
    exact, rounded = ([row["classification"] for row in rows("step", name)] for name in ("float32", "bf16"))
    assert rounded != exact  # or nothing ran in bf16
    assert rounded[0] == pytest.approx(exact[0], rel=0.1)
    assert all(map(math.isfinite, rounded))


@pytest.mark.slow
def test_a_compiled_trunk_trains_alike(tiny, change, make_trainer, rows, tmp_path):
    trainer = make_trainer(change(tiny, compile=True), "compiled")
    try:
        trainer.train(until_epoch=2)
    except torch._dynamo.exc.BackendCompilerFailed:
        pytest.skip("no compiler here")
    make_trainer(tiny, "eager").train(until_epoch=2)
    compiled, eager = ([row["classification"] for row in rows("step", name)] for name in ("compiled", "eager"))
    assert compiled == pytest.approx(eager, rel=0.02)
    assert set(trainer.encoder.state_dict()) == set(FaceEncoder("toy", 16, 16).state_dict())
