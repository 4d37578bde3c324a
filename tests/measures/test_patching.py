import math

import pytest
import torch
from torch.nn import functional as F

from digon.measures.patching import ce_recovered_of, kl_recovered_of, per_token_of, token_costs


def test_costs_agree_with_torch_and_with_the_closed_form():
    g = torch.Generator().manual_seed(0)
    clean, edited = torch.randn(700, 5, generator=g), torch.randn(700, 5, generator=g)
    targets = torch.randint(5, (700,), generator=g)
    costs = token_costs(clean, edited, targets)
    torch.testing.assert_close(costs[:, 0], F.cross_entropy(edited.double(), targets, reduction="none"))
    logs = [F.log_softmax(x.double(), -1) for x in (edited, clean)]
    torch.testing.assert_close(costs[:, 1], F.kl_div(*logs, reduction="none", log_target=True).sum(1))
    coin = token_costs(torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([0]))
    assert coin[0].tolist() == pytest.approx([math.log(4), 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)])


def test_logits_may_be_shifted_by_anything():
    clean, targets = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 4
    moved = token_costs(clean + 7, clean - 3, targets)
    torch.testing.assert_close(moved, token_costs(clean, clean, targets), atol=1e-5, rtol=1e-5)
    assert moved[:, 1].max() < 1e-9


def test_the_ends_of_the_scales():
    totals = torch.tensor([[2.0, 2.0, 2.0, 2.0], [2.0, 4.0, 5.0, 2.0], [4.0, 4.0, 4.0, 2.0]])
    assert ce_recovered_of(totals)[:3].tolist() == [1.0, 0.0, -0.5]
    assert ce_recovered_of(totals)[3].isnan()  # ablation costs nothing
    assert kl_recovered_of(torch.tensor([[0.0, 3.0, 1.0], [3.0, 3.0, 0.0]]))[:2].tolist() == [1.0, 0.0]
    assert per_token_of(torch.tensor([[6.0, 1.0], [3.0, 0.0]]))[0] == 2.0
    assert per_token_of(torch.tensor([[6.0, 1.0], [3.0, 0.0]]))[1].isnan()
