"""The oracles themselves: random numbers against published answers, optimizers against PyTorch's, models whole."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from oracles import optimizers, random  # noqa: E402
from oracles.cases import CASES, Case  # noqa: E402

pytestmark = pytest.mark.peers
torch.set_num_threads(1)


def test_philox_gives_the_published_words() -> None:
    """Known answers of the authors' Random123 (kat_vectors, philox4x32 10)."""
    zero = random.philox((np.zeros(1, np.int64), 0, 0, 0), (0, 0))[0]
    assert [hex(w) for w in zero.tolist()] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    pi = random.philox((np.array([0x243F6A88]), 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))[0]
    assert [hex(w) for w in pi.tolist()] == ["0xd16cfe09", "0x94fdcceb", "0x5001e420", "0x24126ea1"]


def test_random_numbers_have_their_moments() -> None:
    keys = random.Keys(seed=3, step=7)
    uniform, normal = keys.uniform((100, 99), "h.0", 0).double(), keys.normal((100, 99), "h.0", 1).double()
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.005
    assert abs(normal.mean()) < 0.03 and abs(normal.var() - 1) < 0.05


def test_muon_goes_where_pytorch_goes() -> None:
    """torch.optim.Muon scales momentum by 1 - momentum; the orthogonal direction is the same."""
    p = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    q = torch.nn.Parameter(p.clone())
    ours = optimizers.muon(optimizers.constant(0.02), weight_decay=0.01)(p)
    theirs = torch.optim.Muon([q], lr=0.02, weight_decay=0.01, momentum=0.95, nesterov=True)
    for step in range(5):
        g = torch.randn(8, 20, generator=torch.Generator().manual_seed(step + 1))
        q.grad = g
        theirs.step()
        ours(g, step, 5)
    assert torch.linalg.norm(p - q) < 2e-2 * 5 * 0.02 * 8**0.5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_parameter_is_used(case: Case) -> None:
    p = {name: torch.from_numpy(value).double() for name, value in case.values.items()}
    g = optimizers.gradients(case.oracle, p, case.batches(1), case.dims, [random.Keys(step=500)])
    assert set(g.loss_gradients) | set(g.fed) == set(p)
    assert not set(g.loss_gradients) & set(g.fed)


def test_overflowing_experts_drop_rows() -> None:
    """The settings of the deepseek cases do exercise the capacity."""
    case = next(c for c in CASES if c.changes == (("slack", 0.75),))
    rows = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    p = {name: torch.from_numpy(value) for name, value in case.values.items()}
    assert case.oracle.experts(p, "model.layers.1.mlp", rows, case.dims)[2] > 0
