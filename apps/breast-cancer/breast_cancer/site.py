"""Where this site's data file lies, in a federation and under simulation. Not for its content: see `table.py`."""

from pathlib import Path

from breast_cancer.settings import SitePolicy
from breast_cancer.table import FILE_NAME
from flowerbed_app import data_dir


def table_path(site: SitePolicy) -> Path:
    """Return the site's data file: `breast-cancer.csv`, or under simulation that in the node's own folder, `site-1`."""
    own = data_dir() / FILE_NAME
    simulated = data_dir() / site.organisation_name() / FILE_NAME
    return simulated if simulated.exists() and not own.exists() else own
