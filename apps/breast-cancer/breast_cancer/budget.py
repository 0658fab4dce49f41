"""Charge each round's epsilon to this run's record at the site, before any row is touched. Not for training.

The record is durable and outlives the task, the SuperNode's process and the container: a restarted site goes on from
it. It covers one run, not a budget across runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from breast_cancer.errors import BudgetError
from breast_cancer.settings import RunConfig, SitePolicy

# (noise multiplier, sample rate, steps): one stretch of equal DP-SGD steps, as Opacus's accountants keep them.
Stretch = tuple[float, float, int]
Accountant = Callable[[Sequence[Stretch], float], float]


class Record(Protocol):
    """This run's record at this site: `flowerbed_app.SiteState`."""

    def read(self) -> Sequence[Mapping[str, Any]]:
        """Return what was appended, oldest first."""
        ...

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; on disk when this returns."""
        ...


class Charge(BaseModel):
    """One line of the record: what one round has spent, and epsilon since the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    round: int = Field(ge=1)
    noise_multiplier: float = Field(gt=0)
    sample_rate: float = Field(gt=0, lt=1)
    steps: int = Field(ge=1)
    delta: float = Field(gt=0, lt=1)
    epsilon: float = Field(ge=0)

    def stretch(self) -> Stretch:
        """Return what the accountant needs."""
        return (self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True)
class Budget:
    """The record of this run and the limits that hold for it."""

    record: Record
    run: RunConfig
    site: SitePolicy
    accountant: Accountant

    def charge(self, server_round: int) -> Charge:
        """Write one round's cost to the record, durably, and return it. The caller may train only after this returns.

        A round that is asked for twice is charged twice: both updates may have left.

        Raises:
            BudgetError: the record is lost or broken, or this run would spend more than the limit.
        """
        spent = self._spent(server_round)
        self._check_plan(server_round, spent)
        stretches = [*(charge.stretch() for charge in spent), self._stretch(1)]
        charge = Charge(
            round=server_round,
            noise_multiplier=self.run.noise_multiplier,
            sample_rate=self.run.sample_rate,
            steps=self.run.local_steps,
            delta=self.run.delta,
            epsilon=self.accountant(stretches, self.run.delta),
        )
        self.record.append(charge.model_dump())
        return charge

    def _spent(self, server_round: int) -> list[Charge]:
        try:
            spent = [Charge.model_validate(entry) for entry in self.record.read()]
        except ValidationError as error:
            raise BudgetError("This site's record of the run is not readable: start a new run.") from error
        # An empty record in mid-run is a lost one, or a site that joined late: it cannot tell, so it does not train.
        if server_round > 1 and not spent:
            raise BudgetError(
                f"Round {server_round}, and this site has no record of what the run has spent so far: start a new run."
            )
        return spent

    def _check_plan(self, server_round: int, spent: list[Charge]) -> None:
        """Refuse before the first row is touched if the rounds still to come would break the limit."""
        rounds_left = max(1, self.run.num_server_rounds - server_round + 1)
        planned = self.accountant([*(charge.stretch() for charge in spent), self._stretch(rounds_left)], self.run.delta)
        limit = min(self.run.max_epsilon, self.site.max_epsilon)
        if planned > limit:
            raise BudgetError(
                f"The run would spend epsilon {planned:.2f} and the limit is {limit:g}: "
                "use more noise, fewer steps or fewer rounds."
            )

    def _stretch(self, rounds: int) -> Stretch:
        return (self.run.noise_multiplier, self.run.sample_rate, rounds * self.run.local_steps)


def rdp_epsilon(stretches: Sequence[Stretch], delta: float) -> float:
    """Return the epsilon of Poisson-sampled DP-SGD steps, an upper bound by Rényi differential privacy.

    Source: Mironov, Talwar, Zhang, "Rényi differential privacy of the sampled Gaussian mechanism" (2019), as in Opacus.
    """
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = list(stretches)
    return float(accountant.get_epsilon(delta))
