"""The objective: what is minimised, against separate calls of its parts and against the formula."""

import math

import pytest
import torch

from coreface.losses.adaptive_margins import AdaFace, CurricularFace, MagFace
from coreface.losses.classifier import MarginClassifier
from coreface.losses.contrastive import CoReFaceLoss
from coreface.losses.margins import ArcFace, CosFace
from coreface.training.margin_options import build_margin
from coreface.training.objective import Objective
from coreface.training.recipe import Recipe
from coreface.training.recipe_sections import ContrastiveRecipe, MarginRecipe, StageRecipe

IDENTITIES = torch.tensor([0, 1, 1, 2, 3, 0, 2, 4])


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(8, 6, generator=generator, requires_grad=True) for _ in range(3)]


def objective(*stages: StageRecipe) -> Objective:
    torch.manual_seed(0)
    return Objective(Recipe(stages=list(stages)), embedding_size=6, identities=5)


PLAIN = StageRecipe(1, views=1)
TERM = ContrastiveRecipe(weight=0.3, scale=20.0, ema=0.5, mask="zero", protocol="two_way")
WITH_TERM = StageRecipe(2, views=2, contrastive=TERM)


def test_the_total_is_the_mean_over_views_plus_the_weighted_term(views):
    made = objective(PLAIN, WITH_TERM)
    losses = made(1, views[:2], IDENTITIES)
    classify = MarginClassifier(ArcFace(64.0, 0.5), 6, 5)
    classify.load_state_dict(made.classifier.state_dict())
    contrast = CoReFaceLoss(20.0, "adaptive", 0.5, "zero", "two_way")
    classification = (classify(views[0], IDENTITIES) + classify(views[1], IDENTITIES)) / 2
    contrastive = contrast(views[0], views[1], IDENTITIES)
    torch.testing.assert_close(losses.classification, classification.detach())
    torch.testing.assert_close(losses.contrastive, contrastive.detach())
    torch.testing.assert_close(losses.total, classification + 0.3 * contrastive)
    torch.testing.assert_close(losses.contrast.margin, contrast.last.margin)

    expected = torch.autograd.grad(classification + 0.3 * contrastive, [*views[:2], classify.weight])
    got = torch.autograd.grad(losses.total, [*views[:2], made.classifier.weight])
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_margin_softmax_by_plain_arithmetic(views):
    made = objective(PLAIN)
    total = 0.0
    for row, identity in zip(views[0].tolist(), IDENTITIES.tolist(), strict=True):
        cosines = []
        for centre in made.classifier.weight.tolist():
            product = sum(a * b for a, b in zip(row, centre, strict=True))
            cosines.append(product / math.hypot(*row) / math.hypot(*centre))
        angle = math.acos(cosines[identity]) + 0.5
        cosines[identity] = math.cos(angle) if angle <= math.pi else cosines[identity] - 0.5 * math.sin(0.5)
        exponentials = [math.exp(64 * c) for c in cosines]
        total -= math.log(exponentials[identity] / sum(exponentials))
    assert float(made(0, views[:1], IDENTITIES).classification) == pytest.approx(total / len(IDENTITIES), rel=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_stage_without_the_term_is_classification_alone(views, count):
    made = objective(StageRecipe(1, views=count), StageRecipe(2, views=2, contrastive=TERM))
    losses = made(0, views[:count], IDENTITIES)
    assert losses.contrastive is None
    assert losses.contrast is None
    apart = [made.classifier(view, IDENTITIES) for view in views[:count]]
    torch.testing.assert_close(losses.total, sum(apart) / count)
    torch.testing.assert_close(losses.classification, losses.total.detach())


def test_only_the_total_carries_a_gradient(views):
    losses = objective(PLAIN, WITH_TERM)(1, views[:2], IDENTITIES)
    assert losses.total.requires_grad
    assert not losses.classification.requires_grad
    assert not losses.contrastive.requires_grad


def test_every_stage_has_a_term_of_its_own_and_all_share_the_centres(views):
    other = ContrastiveRecipe(weight=2.0, margin=0.25, mask="exclude", protocol="half")
    made = objective(PLAIN, WITH_TERM, StageRecipe(3, views=2, contrastive=other))
    assert len(list(made.parameters())) == 1
    assert made.classifier.weight.shape == (5, 6)
    made(1, views[:2], IDENTITIES)
    contrast = CoReFaceLoss(64.0, 0.25, 0.99, "exclude", "half")
    losses = made(2, views[:2], IDENTITIES)
    torch.testing.assert_close(losses.contrastive, contrast(views[0], views[1], IDENTITIES).detach())
    torch.testing.assert_close(losses.total.detach(), losses.classification + 2 * losses.contrastive)


def test_the_running_margin_is_saved_with_the_objective(views):
    made = objective(PLAIN, WITH_TERM)
    made(1, views[:2], IDENTITIES)
    saved = {name: value for name, value in made.state_dict().items() if "running_margin" in name}
    assert [float(value) for value in saved.values()] != [0.0]
    assert len(saved) == 1


@pytest.mark.parametrize(
    ("recipe", "kind", "scale", "margin"),
    [
        (MarginRecipe(), ArcFace, 64, 0.5),
        (MarginRecipe("cosface"), CosFace, 64, 0.35),
        (MarginRecipe("cosface", 30.0, 0.0), CosFace, 30, 0),
        (MarginRecipe("arcface", 32.0, 0.2), ArcFace, 32, 0.2),
        (MarginRecipe("curricularface"), CurricularFace, 64, 0.5),
        (MarginRecipe("curricularface", 30.0, 0.4), CurricularFace, 30, 0.4),
        (MarginRecipe("adaface"), AdaFace, 64, 0.4),
        (MarginRecipe("adaface", 48.0, 0.3), AdaFace, 48, 0.3),
    ],
)
def test_margins_by_name(recipe, kind, scale, margin):
    built = build_margin(recipe)
    assert type(built) is kind
    assert (built.scale, built.margin) == (scale, margin)


def test_magface_by_name():
    built = build_margin(MarginRecipe("magface", 48.0))
    assert type(built) is MagFace
    assert (built.scale, built.margins) == (48, (0.45, 0.8))
