"""The columns of the data file and the fixed scaling of each. Not for reading files: see `table.py`."""

from typing import Final

TARGET: Final = "malignant"

# Smallest and largest value of each feature as published with the data set (scikit-learn's description of
# `load_breast_cancer`, "Summary Statistics"; units: pixels of the digitised image). They are constants of this
# app, the same at every site, so scaling needs no statistics of a site's rows, which would cost privacy. Values beyond
# are clipped.
RANGES: Final[dict[str, tuple[float, float]]] = {
    "mean_radius": (6.981, 28.11),
    "mean_texture": (9.71, 39.28),
    "mean_perimeter": (43.79, 188.5),
    "mean_area": (143.5, 2501.0),
    "mean_smoothness": (0.053, 0.163),
    "mean_compactness": (0.019, 0.345),
    "mean_concavity": (0.0, 0.427),
    "mean_concave_points": (0.0, 0.201),
    "mean_symmetry": (0.106, 0.304),
    "mean_fractal_dimension": (0.05, 0.097),
    "radius_error": (0.112, 2.873),
    "texture_error": (0.36, 4.885),
    "perimeter_error": (0.757, 21.98),
    "area_error": (6.802, 542.2),
    "smoothness_error": (0.002, 0.031),
    "compactness_error": (0.002, 0.135),
    "concavity_error": (0.0, 0.396),
    "concave_points_error": (0.0, 0.053),
    "symmetry_error": (0.008, 0.079),
    "fractal_dimension_error": (0.001, 0.03),
    "worst_radius": (7.93, 36.04),
    "worst_texture": (12.02, 49.54),
    "worst_perimeter": (50.41, 251.2),
    "worst_area": (185.2, 4254.0),
    "worst_smoothness": (0.071, 0.223),
    "worst_compactness": (0.027, 1.058),
    "worst_concavity": (0.0, 1.252),
    "worst_concave_points": (0.0, 0.291),
    "worst_symmetry": (0.156, 0.664),
    "worst_fractal_dimension": (0.055, 0.208),
}
FEATURES: Final = tuple(RANGES)
