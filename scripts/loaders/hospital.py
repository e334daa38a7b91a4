"""The hospital table (Strack et al. 2014) as 127 features, with the split of the 2017 code."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd

from influence.data.dataset import Dataset
from scripts.loaders.archive import DataError
from scripts.loaders.registry import HOSPITAL, Provenance, load

NUMERIC = (
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "number_diagnoses",
)
_NO, _STEADY = ("No", "Steady"), ("Down", "No", "Steady", "Up")
# The columns that become indicators, in the order of the 2017 code, with the table's categories.
CATEGORIES = {
    "gender": ("Female", "Male", "Unknown/Invalid"),
    "race": ("?", "AfricanAmerican", "Asian", "Caucasian", "Hispanic", "Other"),
    "age": tuple(f"[{10 * decade}-{10 * decade + 10})" for decade in range(10)),
    "discharge_disposition_id": (*range(1, 21), 22, 23, 24, 25, 27, 28),
    "max_glu_serum": (">200", ">300", "None", "Norm"),
    "A1Cresult": (">7", ">8", "None", "Norm"),
    "metformin": _STEADY,
    "repaglinide": _STEADY,
    "nateglinide": _STEADY,
    "chlorpropamide": _STEADY,
    "glimepiride": _STEADY,
    "acetohexamide": _NO,
    "glipizide": _STEADY,
    "glyburide": _STEADY,
    "tolbutamide": _NO,
    "pioglitazone": _STEADY,
    "rosiglitazone": _STEADY,
    "acarbose": _STEADY,
    "miglitol": _STEADY,
    "troglitazone": _NO,
    "tolazamide": ("No", "Steady", "Up"),
    "examide": ("No",),
    "citoglipton": ("No",),
    "insulin": _STEADY,
    "glyburide-metformin": _STEADY,
    "glipizide-metformin": _NO,
    "glimepiride-pioglitazone": _NO,
    "metformin-rosiglitazone": _NO,
    "metformin-pioglitazone": _NO,
    "change": ("Ch", "No"),
    "diabetesMed": ("No", "Yes"),
}
CHILD = "age_[0-10)"
READMITTED = "<30"
TRAIN_ROWS = 20_000
_SEED = 2


@dataclass(frozen=True)
class Hospital:
    """x [n, 127] float32 features, labels 1 = readmitted within 30 days, 0 = not.

    ``rows`` counts the patients of the table, ``features`` names the columns of x.
    """

    train: Dataset
    test: Dataset
    features: list[str]
    rows: int
    provenance: Provenance

    def children(self, points: Dataset) -> np.ndarray:
        """Which of these points are children under ten: [n] booleans."""
        return points.x[:, self.features.index(CHILD)] == 1


def load_hospital(choice: str = "auto") -> Hospital:
    """The table or its stand-in; ``choice`` as in ``registry.load``.

    Half of the training rows are readmitted patients. The draws are those of the 2017 code, with
    its seed, in its order: readmitted, others, train, test.
    """
    contents, provenance = load(choice, {"table": HOSPITAL}, stand_in)
    features, labels, names = read_table(contents["table"])
    random = np.random.RandomState(_SEED)
    readmitted, others = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    random.shuffle(readmitted)
    random.shuffle(others)
    half = TRAIN_ROWS // 2
    if min(len(readmitted), len(others)) <= half:
        raise DataError(
            f"The hospital table has {len(readmitted):,} readmitted patients and {len(others):,} "
            f"others; the split needs more than {half:,} of each."
        )
    train = np.concatenate([readmitted[:half], others[:half]])
    test = np.concatenate([readmitted[half:], others[half:]])
    random.shuffle(train)
    random.shuffle(test)
    return Hospital(
        Dataset(features[train], labels[train]),
        Dataset(features[test], labels[test]),
        names,
        len(labels),
        provenance,
    )


def read_table(content: bytes) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features [n, 127], labels [n] and the features' names from the table's CSV.

    Numbers as they are; an indicator for each category, only one for two-category columns.

    Raises:
        DataError: not a CSV, or columns are missing.
    """
    needed = [*NUMERIC, *CATEGORIES, "readmitted"]
    try:
        # "None" and "?" are categories here; pandas would read the first as missing.
        table = pd.read_csv(io.BytesIO(content), keep_default_na=False, usecols=needed)
        # Not to_numeric, which reads a blank as NaN.
        columns = {name: table[name].astype(np.int64).to_numpy(np.float32) for name in NUMERIC}
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"The hospital table cannot be read: {error}") from None
    for name in CATEGORIES:
        categories = pd.Categorical(table[name])
        dummies = pd.get_dummies(
            categories, prefix=name, drop_first=len(categories.categories) == 2
        )
        columns |= {column: dummies[column].to_numpy(np.float32) for column in dummies}
    labels = (table["readmitted"] == READMITTED).to_numpy(np.uint8)
    return np.stack(list(columns.values()), axis=1), labels, list(columns)


def stand_in(rows: int = 32_000, seed: int = 0) -> dict[str, bytes]:
    """A table with the same columns and categories, drawn from a known logistic truth.

    Readmission depends on earlier visits, the number of diagnoses, insulin and a few discharges;
    children are 0.15 percent and seldom readmitted, like the paper's rare group.
    """
    random = np.random.default_rng(seed)
    means = (4.4, 43, 1.3, 16, 0.4, 0.2, 0.6, 7.4)
    table = {name: random.poisson(mean, rows) for name, mean in zip(NUMERIC, means)}
    for name, categories in CATEGORIES.items():
        # The first rows hold every category once, so that there are always 127 features.
        weights = random.dirichlet(np.full(len(categories), 0.5)) * 0.98 + 0.02 / len(categories)
        if name == "age":
            weights = np.concatenate([[0.0015], np.full(9, 0.9985 / 9)])
        column = random.choice(np.array(categories, object), rows, p=weights)
        column[: len(categories)] = categories
        table[name] = column
    logit = (
        -0.8
        + 0.5 * table["number_inpatient"]
        + 0.08 * (table["number_diagnoses"] - 7)
        + 0.25 * (table["insulin"] == "Up")
        - 1.5 * (table["discharge_disposition_id"] == 11)
        - 1.8 * (table["age"] == "[0-10)")
    )
    readmitted = random.random(rows) < 1 / (1 + np.exp(-logit))
    table["readmitted"] = np.where(readmitted, READMITTED, "NO")
    return {"table": pd.DataFrame(table).to_csv(index=False).encode()}
