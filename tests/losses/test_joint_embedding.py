import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganvas.losses.joint_embedding import (
    info_nce,
    matching_cross_entropy,
    ranking_hinge,
    structured_joint_embedding_loss,
)

LOSSES = [structured_joint_embedding_loss, partial(info_nce, temperature=0.1)]
both = pytest.mark.parametrize("loss", LOSSES, ids=["hinge", "info-nce"])


def pairs(batch=6, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, width, generator=generator, dtype=torch.float64) for _ in range(2))


def test_the_hinge_of_all_zero_embeddings_is_the_margin_over_every_mismatched_pair():
    zero = torch.zeros(4, 3)
    assert structured_joint_embedding_loss(zero, zero, margin=2.0).item() == 2 * 2.0 * 12 / 16


def test_the_hinge_equals_the_sum_written_out_pair_by_pair():
    images, texts = pairs()
    labels = torch.tensor([0, 1, 1, 2, 3, 0])
    to_text = to_image = 0.0
    for i in range(6):
        for j in range(6):
            if labels[i] != labels[j]:
                own = images[i].dot(texts[i]).item()
                to_text += max(0.0, 1 + images[i].dot(texts[j]).item() - own)
                to_image += max(0.0, 1 + images[j].dot(texts[i]).item() - own)
    hinge = ranking_hinge(images @ texts.T, labels)
    assert hinge.image_to_text.item() == pytest.approx(to_text / 36)
    assert hinge.text_to_image.item() == pytest.approx(to_image / 36)
    assert to_text != pytest.approx(to_image)
    total = structured_joint_embedding_loss(images, texts, labels).item()
    assert total == pytest.approx((to_text + to_image) / 36)


def test_the_hinge_is_zero_once_every_pair_wins_by_the_margin():
    images = torch.eye(5)
    assert structured_joint_embedding_loss(images, images) == 0
    assert structured_joint_embedding_loss(images, 0.99 * images) > 0


def test_info_nce_of_four_orthonormal_pairs_has_its_closed_form():
    eye = torch.eye(4, dtype=torch.float64)
    for direction in matching_cross_entropy(eye / 0.1):
        assert direction.item() == pytest.approx(1.361905e-4, rel=1e-6)
    assert info_nce(eye, 3 * eye).item() == pytest.approx(2 * math.log1p(3 * math.exp(-10)), rel=1e-9)


def test_info_nce_of_identical_features_is_the_log_of_the_batch_size_each_way():
    ones = torch.ones(4, 7)
    assert info_nce(ones, ones).item() == pytest.approx(2 * math.log(4))


def test_cross_entropy_of_scores_ranks_texts_along_rows_and_images_along_columns():
    entropy = matching_cross_entropy(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    near, far, tie = math.log1p(math.exp(-1)), math.log1p(math.exp(1)), math.log(2)
    assert entropy.image_to_text.item() == pytest.approx(tie)
    assert entropy.text_to_image.item() == pytest.approx((near + far) / 2)


@both
def test_labels_that_all_differ_change_nothing(loss):
    images, texts = pairs()
    assert loss(images, texts, labels=torch.arange(6)) == loss(images, texts)


@both
def test_a_batch_of_one_class_has_no_mismatched_pair(loss):
    assert loss(*pairs(), labels=torch.zeros(6, dtype=torch.long)) == 0


@both
def test_a_pair_is_not_pushed_from_another_of_its_class(loss):
    images, texts = pairs()
    texts[1], images[1] = images[0], texts[0]  # without labels, the hardest mismatches of all
    labels = torch.tensor([0, 0, 1, 2, 3, 4])
    others = torch.tensor([0, 2, 3, 4, 5])
    moved = texts.clone()
    moved[1] = -moved[1]
    gradients = []
    for variant in (texts, moved):
        leaf = images.clone().requires_grad_()
        loss(leaf, variant, labels=labels).backward()
        gradients.append(leaf.grad[0])
    torch.testing.assert_close(*gradients)
    assert loss(images, texts) > loss(images, texts, labels=labels)
    assert loss(images[others], texts[others]) > 0


@both
def test_images_and_texts_play_the_same_part(loss):
    images, texts = pairs()
    torch.testing.assert_close(loss(images, texts), loss(texts, images))


@both
def test_zero_vectors_in_bfloat16_give_a_finite_loss_and_gradient(loss):
    images = torch.zeros(4, 8, dtype=torch.bfloat16, requires_grad=True)
    texts = torch.zeros(4, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(images, texts)
    value.backward()
    assert value.isfinite() and value.dtype == torch.float32
    assert images.grad.isfinite().all() and texts.grad.isfinite().all()


@both
def test_autocast_does_not_coarsen_the_scores(loss):
    images, texts = (x.float() for x in pairs())
    exact = loss(images, texts)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(images, texts) == exact


@both
@given(batch=st.integers(1, 7), width=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_any_batch_gives_a_finite_loss_that_is_never_negative(loss, batch, width, seed):
    value = loss(*pairs(batch, width, seed))
    assert value.isfinite() and value >= 0
    assert batch > 1 or value == 0


@both
def test_a_few_steps_of_descent_bring_pairs_together(loss):
    images, texts = (torch.nn.Parameter(x) for x in pairs(16, 8))
    optimizer = torch.optim.Adam([images, texts], lr=0.05)
    first = loss(images, texts).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(images, texts)
        value.backward()
        optimizer.step()
    assert value.item() < 0.5 * first
    assert ((images @ texts.T).argmax(dim=1) == torch.arange(16)).all()
