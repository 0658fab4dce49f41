"""What is in the images and what is not: versions, sizes, sources, sample data, users and the modes of mount points."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from images_support import HARDENED, KIT, VERSIONS, docker, image, inside, inspect, run, unique

pytestmark = pytest.mark.docker

MEGABYTES = {"postgres": 550, "nginx": 110, "tools": 110, "flower": 400, "app": 1700, "samples": 90, "keycloak": 550}


@pytest.mark.parametrize("name", MEGABYTES)
def test_an_image_is_no_larger_than_promised(name: str) -> None:
    assert inspect(image(name))["Size"] <= MEGABYTES[name] * 1_000_000


def test_the_base_is_no_larger_than_promised() -> None:
    assert inspect(f"debian:{VERSIONS['DEBIAN_SUITE']}-slim")["Size"] <= 90_000_000


@pytest.mark.parametrize("name", MEGABYTES)
def test_an_image_carries_the_sum_of_its_sources(name: str) -> None:
    wanted = run("scripts/source-hash.sh", name, cwd=KIT).stdout.strip()
    assert inspect(image(name))["Config"]["Labels"]["flowerbed.source"] == wanted, "make images brings it up to date"


def test_the_flower_runtime_starts_hardened_and_has_no_torch_pip_or_uv() -> None:
    seen = inside(
        "flower",
        *("python", "-c", "import importlib.util as u, flwr, psycopg, flowerbed_superlink, flowerbed_supernode"),
        options=("--user", "9705:9705"),
    )
    assert seen == ""
    absent = "import importlib.util as u; print([n for n in ('torch', 'pip', 'uv') if u.find_spec(n)])"
    assert inside("flower", "python", "-c", absent) == "[]"
    assert inside("flower", "flwr", "--version") == f"Flower version: {VERSIONS['FLWR_VERSION']}"


TRAIN = """
import torch, opacus, sklearn.linear_model, flwr.clientapp, flowerbed_executor, flowerbed_app
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 2), torch.randn(32, 1)), batch_size=8)
engine = opacus.PrivacyEngine(accountant="rdp")
model, optimizer, data = engine.make_private(
    module=model, optimizer=optimizer, data_loader=data, noise_multiplier=1.0, max_grad_norm=1.0)
for x, y in data:
    optimizer.zero_grad(); torch.nn.functional.mse_loss(model(x), y).backward(); optimizer.step()
print(torch.__version__.split("+")[0], engine.get_epsilon(1e-5) > 0)
"""


def test_the_app_image_trains_under_differential_privacy() -> None:
    said = inside("app", "python", "-W", "ignore", "-c", TRAIN, options=("--user", "100001:100001", "-e", "HOME=/tmp"))
    assert said.splitlines()[-1] == "2.6.0 True"


def test_the_app_image_holds_no_sample_data() -> None:
    find = r"find / -xdev \( -iname '*.csv*' -o -ipath '*breast*cancer*' -o -path '*/sklearn/datasets/data/*' \) -print"
    assert inside("app", "sh", "-c", find, options=("--user", "0:0", "--cap-add", "DAC_READ_SEARCH")) == ""


def test_mount_points_have_the_modes_that_the_contracts_name() -> None:
    modes = inside("app", "stat", "-c", "%n %a %u:%g", "/state", "/results", "/tasks", "/data", "/run/flowerbed")
    assert modes.splitlines() == [
        "/state 700 0:0",
        "/results 2750 0:9703",
        "/tasks 1711 0:0",
        "/data 755 0:0",
        "/run/flowerbed 755 0:0",
    ]
    assert inside("flower", "stat", "-c", "%a %u:%g", "/results") == "2750 0:9703"


def test_nginx_reads_a_configuration_and_writes_nowhere_but_its_run_directory(tmp_path: Path) -> None:
    lines = (
        "pid /run/nginx/nginx.pid; error_log stderr; events {} http { access_log /dev/stdout; server { listen 443; } }"
    )
    tmp_path.chmod(0o755)
    (tmp_path / "nginx.conf").write_text(lines)
    mounts = ("--tmpfs", "/run/nginx:uid=9702,gid=9702,mode=0700", "-v", f"{tmp_path}:/config:ro")
    said = docker("run", "--rm", *HARDENED, "--network", "none", "--user", "9702:9702", *mounts, image("nginx"), "-t")
    assert "test is successful" in said
    assert "warn" not in said


@pytest.fixture
def data() -> Iterator[str]:
    volume = unique("data")
    docker("volume", "create", volume)
    yield volume
    docker("volume", "rm", "--force", volume)


def seed(volume: str, part: int, name: str) -> str:
    return inside("samples", str(part), "3", f"/data/{name}", options=("-v", f"{volume}:/data"))


def read(volume: str, name: str) -> str:
    reader = ("-v", f"{volume}:/data:ro", "--user", "100001:100001", image("tools"), "cat", f"/data/{name}")
    return run("docker", "run", "--rm", "--network", "none", *reader).stdout


def test_the_parts_of_the_sample_table_are_disjoint_and_complete(data: str) -> None:
    said = [seed(data, part, f"{part}.csv") for part in (1, 2, 3)]
    assert [line.split()[-2] for line in said] == ["190", "190", "189"]

    parts = [list(csv.DictReader(io.StringIO(read(data, f"{part}.csv")))) for part in (1, 2, 3)]
    rows = {tuple(row.values()) for part in parts for row in part}
    assert len(rows) == 569
    header = list(parts[0][0])
    assert (len(header), header[0], header[-1]) == (31, "mean_radius", "malignant")
    # Wolberg et al.: 212 malignant, 357 benign.
    assert sum(int(row["malignant"]) for part in parts for row in part) == 212
    # A site without one of the classes could not train.
    assert all({row["malignant"] for row in part} == {"0", "1"} for part in parts)


def test_seeding_never_touches_a_file_that_exists(data: str) -> None:
    seed(data, 1, "breast-cancer.csv")
    before = read(data, "breast-cancer.csv")
    assert "exists and is left as it is" in seed(data, 2, "breast-cancer.csv")
    assert read(data, "breast-cancer.csv") == before


def test_seeding_refuses_a_part_that_is_none(data: str) -> None:
    command = ("run", "--rm", "--network", "none", "-v", f"{data}:/data", image("samples"), "4", "3", "/data/x.csv")
    done = run("docker", *command, check=False)
    assert (done.returncode, done.stderr.strip()) == (2, "seed: PART is 4: give a number from 1 to 3")
