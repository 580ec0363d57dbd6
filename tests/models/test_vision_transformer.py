"""Vision transformers, written again image by image; what they leave out at random; training."""

import math

import pytest
import torch

import coreface as cf
from coreface.errors import ModelError
from coreface.models.registry import build_backbone
from coreface.models.vision_transformer import VisionTransformer

HEADS = 8


def layer_norm(x, state, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(x, state, name, training):
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        mean, variance = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
    return (x - mean) / (variance + 2e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(x, state, name):
    width = x.shape[1]
    size = width // HEADS
    qkv = x @ state[f"{name}.qkv.weight"].T
    heads = []
    for head in range(HEADS):
        q, k, v = (qkv[:, part * width + head * size :][:, :size] for part in range(3))
        heads.append(((q @ k.T) / math.sqrt(size)).softmax(1) @ v)
    return torch.cat(heads, 1) @ state[f"{name}.proj.weight"].T + state[f"{name}.proj.bias"]


def naive_features(state, image, depth, kept=None, scales=None):
    """Features of one image; ``kept`` lists the patches that pass the blocks, ``scales`` has two numbers a block."""
    side = image.shape[1] // 9
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patches = []
    for row in range(side):
        for column in range(side):
            pixels = image[:, 9 * row : 9 * row + 9, 9 * column : 9 * column + 9]
            patches.append(weight.flatten(1) @ pixels.flatten() + bias + state["pos_embed"][0, len(patches)])
    kept = range(len(patches)) if kept is None else kept
    x = torch.stack([patches[number] for number in kept])
    for block in range(depth):
        name, scale = f"blocks.{block}", (1, 1) if scales is None else scales[2 * block : 2 * block + 2]
        x = x + scale[0] * attention(layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn")
        hidden = layer_norm(x, state, f"{name}.norm2") @ state[f"{name}.mlp.fc1.weight"].T
        hidden = (hidden + state[f"{name}.mlp.fc1.bias"]).clamp(0, 6)
        x = x + scale[1] * (hidden @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"])
    x = layer_norm(x, state, "norm")
    out = [state["mask_token"][0, 0]] * len(patches)
    for number, vector in zip(kept, x, strict=True):
        out[number] = vector
    return torch.cat(out)


def naive_embedding(state, features, training):
    hidden = batch_norm(features @ state["feature.0.weight"].T, state, "feature.1", training)
    return batch_norm(hidden @ state["feature.2.weight"].T, state, "feature.3", training)


def toy(depth_rate=0.0, patch_rate=0.0, depth=3, size=32):
    return VisionTransformer(16, depth, depth_rate, patch_rate, 8, size)


@pytest.fixture
def images():
    return torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def stirred(stir, backbone):
    return stir(cf.FaceEncoder(backbone, 8, 32, dropout=0).double())


@pytest.mark.parametrize("training", [False, True])
def test_forward(images, stir, training):
    encoder = stirred(stir, toy()).train(training)
    state = {key: tensor.clone() for key, tensor in encoder.backbone.state_dict().items()}
    features = torch.stack([naive_features(state, image, 3) for image in images])
    torch.testing.assert_close(encoder.backbone.trunk(images), features, rtol=1e-8, atol=1e-8)
    expected = naive_embedding(state, features, training)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-8, atol=1e-8)
    assert expected.std() > 0.1


def test_a_public_one_in_float32(stir):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    encoder = stir(cf.FaceEncoder("vit_t", 8, 16)).eval()
    state = {key: tensor.double() for key, tensor in encoder.backbone.state_dict().items()}
    features = torch.stack([naive_features(state, image.double(), 12) for image in images])
    expected = naive_embedding(state, features, training=False)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_last_four_rows_and_columns_of_pixels_are_not_used():
    backbone = build_backbone("vit_t", 8, 112).eval()
    images = torch.zeros(1, 3, 112, 112, requires_grad=True)
    (gradient,) = torch.autograd.grad(backbone.patch_embed(images).sum(), images)
    assert gradient[:, :, :108, :108].ne(0).all()
    assert not gradient[:, :, 108:].any()
    assert not gradient[:, :, :, 108:].any()


def test_published_rates():
    with torch.device("meta"):
        t, s, b = (build_backbone(name, 8, 16) for name in ("vit_t", "vit_s", "vit_b"))
    assert (t.patch_rate, s.patch_rate, b.patch_rate) == (0, 0.1, 0.1)
    for backbone, last in ((t, 0.05), (s, 0.1), (b, 0.1)):
        rates = torch.tensor(backbone.depth_rates)
        assert (rates[0].item(), rates[-1].item()) == (0, pytest.approx(last))
        torch.testing.assert_close(rates.diff(), torch.full_like(rates[1:], last / (len(rates) - 1)))
    assert int(144 * (1 - s.patch_rate)) == 129


def test_first_weights():
    torch.manual_seed(0)
    backbone = build_backbone("vit_t", 64, 112)
    for weight in (backbone.pos_embed, backbone.blocks[0].attn.qkv.weight, backbone.feature[0].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert backbone.mask_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert not backbone.blocks[3].mlp.fc1.bias.any()


def draws(backbone, images, masks):
    """Return, from the draws of (seed, step, row), the patches kept and the scales of the branches of every image."""
    patches = backbone.pos_embed.shape[1]
    count = int(patches * (1 - backbone.patch_rate))
    numbers = masks.uniform("patches", patches)
    kept = [sorted(sorted(range(patches), key=row.tolist().__getitem__)[:count]) for row in numbers]
    branches = masks.uniform("depth", 2 * len(backbone.depth_rates))
    scales = [
        [
            float(u >= rate) / (1 - rate)
            for u, rate in zip(row, [rate for rate in backbone.depth_rates for _ in "ab"], strict=True)
        ]
        for row in branches.tolist()
    ]
    return kept, scales


def test_what_training_leaves_out(images, stir):
    encoder = stirred(stir, toy(0.6, 0.4)).train()
    state = {key: tensor.clone() for key, tensor in encoder.backbone.state_dict().items()}
    masks = cf.RowMasks(3, 11, torch.tensor([4, 9, 1, 30, 2]))
    kept, scales = draws(encoder.backbone, images, masks)
    assert all(len(row) == 5 for row in kept)  # of 9
    assert len({tuple(row) for row in kept}) > 1
    assert 0 < sum(scale == 0 for row in scales for scale in row) < 30
    features = torch.stack(
        [naive_features(state, image, 3, k, s) for image, k, s in zip(images, kept, scales, strict=True)]
    )
    torch.testing.assert_close(encoder.backbone.drawn_trunk(images, masks), features, rtol=1e-6, atol=1e-6)
    (view,) = encoder.views(images, 1, 0.0, masks=masks)
    torch.testing.assert_close(view, naive_embedding(state, features, training=True), rtol=1e-6, atol=1e-6)
    encoder.eval()
    plain = torch.stack([naive_features(state, image, 3) for image in images])
    torch.testing.assert_close(encoder.backbone.drawn_trunk(images, masks), plain, rtol=1e-8, atol=1e-8)


def test_draws_depend_on_seed_step_and_row_alone(images):
    backbone = toy(0.6, 0.4).double().train()
    rows = torch.tensor([4, 9, 1, 30, 2])
    together = backbone.drawn_trunk(images, cf.RowMasks(3, 11, rows))
    apart = [backbone.drawn_trunk(images[part], cf.RowMasks(3, 11, rows[part])) for part in ([0, 1], [4], [2, 3])]
    torch.testing.assert_close(torch.cat(apart), together[[0, 1, 4, 2, 3]], rtol=1e-10, atol=1e-10)
    for other in (cf.RowMasks(4, 11, rows), cf.RowMasks(3, 12, rows), cf.RowMasks(3, 11, rows + 1)):
        assert not torch.allclose(backbone.drawn_trunk(images, other), together)


def test_without_rows_torch_draws(images):
    backbone = toy(0.6, 0.4).double().train()
    torch.manual_seed(1)
    one, other = backbone.trunk(images), backbone.trunk(images)
    torch.manual_seed(1)
    assert not torch.equal(one, other)
    assert torch.equal(backbone.trunk(images), one)


def test_uniform_numbers_of_rows():
    masks = cf.RowMasks(0, 5, torch.arange(500))
    numbers = masks.uniform("depth", 40)
    assert numbers.shape == (500, 40)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 20_000))
    assert abs(torch.corrcoef(torch.stack([numbers, masks.uniform("patches", 40)]).flatten(1))[0, 1]) < 5 / math.sqrt(
        2e4
    )
    assert torch.equal(cf.RowMasks(0, 5, torch.tensor([7])).uniform("depth", 40), numbers[7:8])


def test_checkpointed_activations_change_no_gradient(images):
    backbone = toy(0.6, 0.4).double().train()
    masks = cf.RowMasks(3, 11, torch.arange(5))
    calls = []
    backbone.blocks[1].attn.register_forward_hook(lambda *_: calls.append(1))

    def gradients():
        calls.clear()
        loss = backbone.drawn_trunk(images, masks).square().sum()
        found = torch.autograd.grad(loss, [p for p in backbone.parameters() if p is not backbone.mask_token][:-6])
        return len(calls), loss, found

    plain = gradients()
    backbone.checkpoint_activations()
    again = gradients()
    assert (plain[0], again[0]) == (1, 2)  # computed once more in the backward pass
    assert torch.equal(plain[1], again[1])
    assert all(torch.equal(a, b) for a, b in zip(plain[2], again[2], strict=True))


def test_a_network_with_batchnorm_does_not_checkpoint_activations():
    with pytest.raises(ModelError, match="IResNet cannot checkpoint activations, expected a vision transformer"):
        build_backbone("iresnet18", 8, 16).checkpoint_activations()


def test_autocast(images):
    encoder = cf.FaceEncoder(toy(0.3, 0.3), 8, 32, dropout=0.3).train()
    images = images.float()
    with torch.autocast("cpu", torch.bfloat16):
        one, other = encoder.views(images, 2, masks=cf.RowMasks(0, 0, torch.arange(5)))
    assert one.dtype == other.dtype == torch.float32
    assert not torch.equal(one, other)
    exact = encoder.views(images, 1, masks=cf.RowMasks(0, 0, torch.arange(5)))[0]
    assert torch.nn.functional.cosine_similarity(one, exact).min() > 0.95


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_rates_out_of_range(rate):
    for rates in ((rate, 0.0), (0.0, rate)):
        with pytest.raises(ModelError, match="expected 0 <="):
            toy(*rates)


def test_round_trip(tmp_path):
    encoder = cf.FaceEncoder("vit_t", 8, 16).eval()
    encoder.save_pretrained(tmp_path)
    loaded = cf.FaceEncoder.from_pretrained(tmp_path)
    batch = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(batch), encoder(batch))
