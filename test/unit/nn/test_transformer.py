"""The plain Transformer: attention as torch computes it, positions, and what an utterance may skip."""

import torch
import torch.nn.functional as F

from spear.nn.transformer import (
    ConvolutionalPositions,
    MultiHeadAttention,
    RotaryAngles,
    Transformer,
    TransformerLayer,
    rotate,
)


def make_layer(layer_drop=0.0, dropout=0.0):
    torch.manual_seed(0)
    return TransformerLayer(16, 4, 32, dropout, dropout, layer_drop, 0.5)


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    attention, x_BTD = MultiHeadAttention(16, 4, 0.0, 1.0), torch.randn(2, 7, 16)
    padding_BT = torch.arange(7) >= torch.tensor([[7], [4]])
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        for name, ours in (("in_proj_", attention.in_proj), ("out_proj.", attention.out_proj)):
            for kind in ("weight", "bias"):
                reference.get_parameter(name + kind).copy_(getattr(ours, kind))
        expected, _ = reference(x_BTD, x_BTD, x_BTD, key_padding_mask=padding_BT)
        torch.testing.assert_close(attention(x_BTD, None, padding_BT), expected, rtol=1e-5, atol=1e-6)


def test_rotations_keep_lengths_and_make_products_depend_on_offsets():
    rotation = RotaryAngles(8)(30, torch.device("cpu"))
    torch.manual_seed(0)
    q, k = torch.randn(2, 8)
    turned_q, turned_k = (rotate(x.expand(1, 1, 30, 8), rotation)[0, 0] for x in (q, k))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(30))
    products = turned_q @ turned_k.T
    for offset in (-9, 0, 5):
        along = products.diagonal(offset)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-4)
    assert abs(float(products[0, 5] - products[5, 0])) > 0.01


def test_angles_do_not_depend_on_what_came_before():
    grown, fresh = RotaryAngles(8), RotaryAngles(8)
    grown(5, torch.device("cpu"))
    grown(40, torch.device("cpu"))
    for ours, expected in zip(grown(12, torch.device("cpu")), fresh(12, torch.device("cpu"))):
        assert torch.equal(ours, expected)


def test_convolutional_positions_see_their_kernel_and_no_padding():
    torch.manual_seed(0)
    positions, x_BTD = ConvolutionalPositions(8, 5, 2), torch.randn(1, 12, 8)
    changed = x_BTD.clone()
    changed[0, 6] += 1.0
    differs = (positions(changed, None) - positions(x_BTD, None)).abs().amax(-1)[0] > 1e-6
    assert differs.nonzero().flatten().tolist() == [4, 5, 6, 7, 8]
    padding_BT = torch.arange(12)[None] >= 9
    alone = positions(x_BTD[:, :9], None)
    torch.testing.assert_close(positions(x_BTD, padding_BT)[:, :9], alone)


def test_a_layer_is_skipped_by_whole_utterances_and_all_parameters_get_a_gradient():
    layer, x_BTD = make_layer(layer_drop=0.5).train(), torch.randn(40, 5, 16)
    y_BTD = layer(x_BTD, None, None)
    skipped_B = (y_BTD == x_BTD).flatten(1).all(1)
    assert 8 < int(skipped_B.sum()) < 32
    torch.testing.assert_close(y_BTD[~skipped_B], layer.eval()(x_BTD, None, None)[~skipped_B])
    make_everything_skip = make_layer(layer_drop=0.999999).train()
    make_everything_skip(x_BTD, None, None).sum().backward()
    assert all(parameter.grad is not None for parameter in make_everything_skip.parameters())


def test_dropout_is_drawn_from_the_global_generator():
    layer, x_BTD = make_layer(dropout=0.3, layer_drop=0.2).train(), torch.randn(6, 5, 16)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(x_BTD, None, None))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_a_layer_is_pre_norm():
    layer, x_BTD = make_layer().eval(), torch.randn(2, 5, 16)
    with torch.no_grad():
        y = x_BTD + layer.attention(F.layer_norm(x_BTD, (16,), layer.attention_norm.weight), None, None)
        hidden = layer.in_proj(F.layer_norm(y, (16,), layer.feed_forward_norm.weight))
        torch.testing.assert_close(layer(x_BTD, None, None), y + layer.out_proj(F.gelu(hidden)))


def test_activation_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    model = Transformer([make_layer(0.2, 0.2) for _ in range(2)], 16, 4, None, 1).train()
    x_BTD, gradients = torch.randn(3, 9, 16), []
    for model.activation_checkpointing in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        model(x_BTD, None)[0].square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))
