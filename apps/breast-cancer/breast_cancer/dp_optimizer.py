"""Opacus's DPOptimizer with noise from the operating system's generator. Not for anything else; needs torch."""

from random import SystemRandom

import torch
from opacus.optimizers import DPOptimizer

_random = SystemRandom()


class SystemNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Clips as Opacus does; its Gaussian noise takes no seed."""

    def add_noise(self) -> None:
        """Add noise of `noise_multiplier * max_grad_norm` to the sum of clipped gradients."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = system_gaussian(parameter.summed_grad.numel(), std).reshape(parameter.summed_grad.shape)
            parameter.grad = (parameter.summed_grad + noise).view_as(parameter)


def system_gaussian(count: int, std: float) -> torch.Tensor:
    """Return Gaussian noise, mean 0.

    Each value is half the sum of four draws, the defence of Opacus's secure mode against reading the noise from
    floating-point rounding (Holohan and Braghin, arXiv:2107.10138, section 5.1).
    """
    draws = [sum(_random.gauss(0.0, std) for _ in range(4)) / 2 for _ in range(count)]
    return torch.tensor(draws, dtype=torch.float32)
