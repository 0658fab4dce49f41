"""Run config (the researcher's) and node config (the custodian's), checked. Not for spending: see `budget.py`."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, ValidationError

from breast_cancer.errors import SettingsError


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=AliasGenerator(validation_alias=_kebab),
        allow_inf_nan=False,
    )

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return the checked settings.

        Raises:
            SettingsError: names each key that is wrong.
        """
        try:
            return cls.model_validate(dict(config))
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise SettingsError(f"{cls.__name__}: {found}.") from error


class RunConfig(_Settings):
    """`[tool.flwr.app.config]` with what `--run-config` overrides."""

    num_server_rounds: int = Field(ge=1, le=1000)
    min_sites: int = Field(ge=1)
    wait_for_sites: float = Field(gt=0, description="seconds")
    round_timeout: float = Field(gt=0, description="seconds")
    noise_multiplier: float = Field(gt=0, description="standard deviation of the noise, in units of max-grad-norm")
    max_grad_norm: float = Field(gt=0)
    sample_rate: float = Field(gt=0, lt=1, description="chance of each row to be in a step's batch")
    local_steps: int = Field(ge=1, le=10_000)
    learning_rate: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    max_epsilon: float = Field(gt=0)
    report_evaluation: bool


class SitePolicy(_Settings):
    """What a site's custodian sets with `--node-config`; no run config weakens it. Other keys belong to other apps."""

    model_config = ConfigDict(extra="ignore")

    organisation: str = Field(default="", max_length=100)
    partition_id: int = Field(default=0, ge=0)
    min_noise_multiplier: float = Field(default=0.0, ge=0)
    max_epsilon: float = Field(default=10.0, gt=0, description="for one run")
    max_delta: float = Field(default=1e-4, gt=0, lt=1)
    share_evaluation: bool = True

    def organisation_name(self) -> str:
        """Return the organisation, or under simulation, where nodes only have a partition, `site-1` and so on."""
        return self.organisation or f"site-{self.partition_id + 1}"

    def check(self, run: RunConfig, train_rows: int) -> None:
        """Refuse a run that asks for less noise or a greater delta than this site allows.

        Raises:
            SettingsError: with the limit, and how to meet it.
        """
        if run.noise_multiplier < self.min_noise_multiplier:
            raise SettingsError(
                f"noise-multiplier is {run.noise_multiplier:g}: this site allows no less than "
                f"{self.min_noise_multiplier:g}; raise it with --run-config."
            )
        if run.delta > self.max_delta:
            raise SettingsError(
                f"delta is {run.delta:g}: this site allows no more than {self.max_delta:g}; lower it with --run-config."
            )
        # A delta of 1/n would permit publishing one patient whole.
        if run.delta * train_rows >= 1:
            raise SettingsError(
                f"delta is {run.delta:g}: it must be below 1 / number of rows; lower it with --run-config."
            )
