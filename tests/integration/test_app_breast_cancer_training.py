"""The ClientApp with real torch and Opacus, in the app image: what it spends, refuses, and what its noise is worth."""

import json
from pathlib import Path
from typing import Any

import pytest

from images_support import HARDENED, docker, image, run

pytestmark = pytest.mark.docker

HERE = Path(__file__).resolve().parent
APP = HERE.parents[1] / "apps" / "breast-cancer"
SECRETS = ("4711.0815", "secret")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Drive the ClientApp once, as a task's user without network, on the table of the samples image."""
    table = tmp_path_factory.mktemp("samples") / "table.csv"
    table.write_text(
        docker(
            "run",
            "--rm",
            *HARDENED,
            "--network",
            "none",
            "--entrypoint",
            "cat",
            image("samples"),
            "/samples/breast-cancer.csv",
        )
        + "\n"
    )
    mounts = [f"{APP}:/app:ro", f"{HERE / 'app_breast_cancer_probe.py'}:/probe.py:ro", f"{table}:/table.csv:ro"]
    options = ["--rm", *HARDENED, "--network", "none", "--user", "100001:100001", "--tmpfs", "/tmp:mode=1777"]
    for folder in (table.parent, *table.parent.parents[:2]):
        folder.chmod(0o755)
    done = run(
        "docker",
        "run",
        *options,
        *(part for mount in mounts for part in ("-v", mount)),
        "--entrypoint",
        "python",
        image("app"),
        "/probe.py",
        "/app",
        "/table.csv",
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_round_spends_and_the_next_task_goes_on_from_the_record(facts: dict[str, Any]) -> None:
    rounds = facts["rounds"]

    assert rounds["lines"] == 1
    assert rounds["first"]["epsilon"] == pytest.approx(1.816, abs=0.001)
    assert rounds["second"]["epsilon"] == pytest.approx(2.570, abs=0.001)
    assert rounds["first"]["organisation"] == "charite"
    assert rounds["first"]["norm"] > 0
    assert set(rounds["evaluated"]) == {"num-examples", "accuracy", "auc", "organisation"}


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("no record", "Round 2, and this site has no record of what the run has spent so far: start a new run."),
        ("little noise", "noise-multiplier is 3: this site allows no less than 4; raise it with --run-config."),
        (
            "site's budget",
            "The run would spend epsilon 3.17 and the limit is 1: use more noise, fewer steps or fewer rounds.",
        ),
        ("seed", "RunConfig: seed: Extra inputs are not permitted."),
        ("no evaluation", "This site does not share evaluation metrics (share-evaluation is false)."),
        ("diverged", "Training diverged at this site: lower learning-rate with --run-config."),
        ("broken row", "breast-cancer.csv: line 2: 'mean_perimeter' is not a finite number."),
        ("unforeseen", "The app failed at this site; the site's own log says why."),
    ],
)
def test_a_refusal_is_one_sentence_without_data(facts: dict[str, Any], case: str, sentence: str) -> None:
    assert facts["refusals"][case] == {"error": sentence}
    assert not any(secret in sentence for secret in SECRETS)


def test_a_refused_round_spends_nothing_and_a_failed_one_is_spent(facts: dict[str, Any]) -> None:
    assert facts["refusals"]["record"] == ""
    assert json.loads(facts["refusals"]["record after divergence"])["round"] == 1


def test_torchs_seed_does_not_reach_noise_or_batches(facts: dict[str, Any]) -> None:
    assert facts["privacy"]["same torch seed, difference"] > 0.1


def test_the_noise_is_gaussian_of_the_deviation_asked_for(facts: dict[str, Any]) -> None:
    privacy = facts["privacy"]

    # Six standard errors of 40,000 draws: a sound generator fails this once in a hundred million runs.
    assert abs(privacy["noise mean"]) < 6 * 3 / 200
    assert privacy["noise std"] == pytest.approx(3.0, abs=6 * 3 / 283)
    assert privacy["noise beyond two sigma"] == pytest.approx(0.0455, abs=6 * 0.00105)


def test_one_patient_moves_a_step_by_no_more_than_the_clipping_norm(facts: dict[str, Any]) -> None:
    assert 0.9 < facts["privacy"]["sensitivity"] <= 1.0001


def test_batches_are_poisson_samples_and_may_be_empty(facts: dict[str, Any]) -> None:
    privacy = facts["privacy"]

    assert privacy["batch mean"] == pytest.approx(250, abs=6 * 13.7 / 14)
    assert 9 < privacy["batch std"] < 19
    assert privacy["empty batches"] > 0


def test_the_accountant_adds_rounds_up_as_one(facts: dict[str, Any]) -> None:
    privacy = facts["privacy"]

    assert privacy["epsilon"] == pytest.approx(3.17, abs=0.01)
    assert privacy["epsilon in parts"] == pytest.approx(privacy["epsilon"])


def test_it_learns_something(facts: dict[str, Any]) -> None:
    assert facts["privacy"]["accuracy"] > 0.85
