"""Comparing logits: what counts as equal, and what is restored."""

from __future__ import annotations

import pytest
import torch

from serve.inference.equivalence import check_equivalent, evaluating

LOGITS_NC = torch.tensor([[4.0, -2.0], [1.0, 0.5]])


def test_difference_is_absolute_or_relative_to_the_largest_logit() -> None:
    other_NC = LOGITS_NC + torch.tensor([[0.0, 0.2], [0.0, 0.0]])

    assert check_equivalent(other_NC, LOGITS_NC, 0.3) == pytest.approx(0.2)
    assert check_equivalent(other_NC, LOGITS_NC, 0.06, relative=True) == pytest.approx(0.05)
    with pytest.raises(ValueError, match=r"logits differ by 2\.0e-01"):
        check_equivalent(other_NC, LOGITS_NC, 0.1)


def test_nan_is_never_equal() -> None:
    with pytest.raises(ValueError, match="differ by nan"):
        check_equivalent(LOGITS_NC, LOGITS_NC * float("nan"), 1e9)


@pytest.mark.parametrize("training", [False, True])
def test_mode_is_restored_after_an_error(training: bool) -> None:
    model = torch.nn.Bilinear(2, 2, 1).train(training)

    with pytest.raises(TypeError), evaluating(model, "cpu"):
        model()

    assert model.training is training
    assert torch.is_grad_enabled()


def test_model_is_evaluated_without_gradients() -> None:
    model = torch.nn.Dropout().train()

    with evaluating(model, "cpu"):
        assert not model.training
        assert not torch.is_grad_enabled()
