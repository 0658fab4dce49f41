"""Train with DP-SGD and measure, on one site's rows. Not for accounting (`budget.py`) or messages (`client_app.py`).

Batches and noise come from the operating system's generator (`random.SystemRandom`): there is no seed that a run
config could set or a researcher could guess. torch's own CPU generator is a Mersenne Twister with a 32-bit seed, and
Opacus's secure mode needs `torchcsprng`, which is no longer released.
"""

from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING

import numpy as np

from breast_cancer.arrays import Arrays
from breast_cancer.errors import ArraysError
from breast_cancer.table import Rows

if TYPE_CHECKING:
    from torch import nn

    from breast_cancer.dp_optimizer import SystemNoiseOptimizer

_random = SystemRandom()


@dataclass(frozen=True)
class Steps:
    """DP-SGD on one site in one round. `noise_multiplier` 0 is for benchmarks alone: budgets refuse it."""

    count: int
    sample_rate: float
    learning_rate: float
    max_grad_norm: float
    noise_multiplier: float


@dataclass(frozen=True)
class Measured:
    """Figures on held-out rows; `auc` is NaN where these hold one class only."""

    accuracy: float
    auc: float


def train(arrays: Arrays, rows: Rows, steps: Steps) -> Arrays:
    """Return the model after Poisson-sampled DP-SGD steps.

    Raises:
        ArraysError: training diverged.
    """
    import torch
    from opacus import GradSampleModule

    model = GradSampleModule(_model(arrays))
    optimizer = _optimizer(model, len(rows), steps)
    features, target = torch.from_numpy(rows.features), torch.from_numpy(rows.target)
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="mean")
    for _ in range(steps.count):
        batch = torch.tensor(poisson_batch(len(rows), steps.sample_rate), dtype=torch.long)
        optimizer.zero_grad()
        # Opacus's hooks want inputs that take part in the gradient; nothing reads it.
        # An empty batch is a valid draw: it takes a step of noise alone. Its mean loss is NaN and never used.
        loss_of(model(features[batch].requires_grad_()).squeeze(1), target[batch]).backward()
        optimizer.step()
    trained = {name: value.detach().numpy().copy() for name, value in model._module.state_dict().items()}  # noqa: SLF001
    if not all(np.isfinite(value).all() for value in trained.values()):
        raise ArraysError("Training diverged at this site: lower learning-rate with --run-config.")
    return trained


def measure(arrays: Arrays, rows: Rows) -> Measured:
    """Return accuracy and AUC on rows. These are exact: no noise protects the patients among them."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    logits = rows.features @ arrays["weight"][0] + arrays["bias"][0]
    both = len(np.unique(rows.target)) == 2
    return Measured(
        accuracy=float(accuracy_score(rows.target, logits > 0)),
        auc=float(roc_auc_score(rows.target, logits)) if both else float("nan"),
    )


def poisson_batch(rows: int, sample_rate: float) -> list[int]:
    """Return a batch's indices: each row is in it with the same chance, on its own, as the accountant assumes."""
    return [i for i in range(rows) if _random.random() < sample_rate]


def _model(arrays: Arrays) -> "nn.Linear":
    import torch

    model = torch.nn.Linear(arrays["weight"].shape[1], 1)
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in arrays.items()})
    return model


def _optimizer(model: "nn.Module", rows: int, steps: Steps) -> "SystemNoiseOptimizer":
    import torch

    from breast_cancer.dp_optimizer import SystemNoiseOptimizer

    return SystemNoiseOptimizer(
        torch.optim.SGD(model.parameters(), lr=steps.learning_rate),
        noise_multiplier=steps.noise_multiplier,
        max_grad_norm=steps.max_grad_norm,
        expected_batch_size=rows * steps.sample_rate,
    )
