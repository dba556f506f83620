"""Costs of wrong decisions: the decision of least expected cost, and what it costs per 1,000 images."""
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.common import InputError
from utils.data.read_csv import read_csv

QUADRATIC = 'quadratic'
PER = 1000  # images


def read_costs(source: str, class_names: Sequence[str], ordered: bool = False) -> np.ndarray:
    """Read the costs of --costs: float64 (K, K), rows are true classes, columns are decisions.

    `source`: 'quadratic', (i - j)^2 for grades, with which the cost is proportional to 1 - quadratic kappa; or a csv whose header holds the
    class names after a first cell of any text, and whose rows are a class name and K numbers >= 0. Raises `InputError` for another size,
    another order of the classes, and invalid numbers.
    """
    k = len(class_names)
    if source == QUADRATIC:
        if not ordered:
            raise InputError(f'--costs {QUADRATIC} is for grades, and these classes have no order: add --ordered if they have one, or '
                             'give a csv of costs')
        return (np.arange(k)[:, None] - np.arange(k)) ** 2.
    if not os.path.isfile(source):
        raise InputError(f'--costs must be {QUADRATIC} or a csv, but there is no file {source}')
    table, rows = read_csv(source, 'csv of costs')
    columns, names = list(table.columns[1:]), table.iloc[:, 0].fillna('').tolist()
    if len(columns) != k or len(names) != k:
        raise InputError(f'--costs {source} has {len(names)} rows and {len(columns)} columns of costs, but there are {k} classes: '
                         f"{', '.join(class_names)}")
    for what, found in (('columns', columns), ('rows', names)):
        if found != list(class_names):
            order = 'in another order' if sorted(found) == sorted(class_names) else 'not those of the predictions'
            raise InputError(f"--costs {source}: its {what} are {order}: {', '.join(found)} instead of {', '.join(class_names)}")
    costs = table.iloc[:, 1:].apply(pd.to_numeric, errors='coerce').to_numpy(np.float64)
    bad = np.argwhere(~(np.isfinite(costs) & (costs >= 0)))
    if len(bad):
        row, column = bad[0]
        raise InputError(f"--costs {source}, row {rows[row]}: the cost of '{columns[column]}' must be a number, 0 or more, not "
                         f"'{table.iloc[:, 1:].fillna('').iloc[row, column]}'")
    return costs


def least_cost(probs: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Decision of least expected cost, int (N,), for probabilities (N, K): argmin over j of sum over i of p_i costs[i, j]. Ties go to the
    first class. The probabilities must be calibrated for the class frequencies of the images."""
    return (np.asarray(probs, np.float64) @ costs).argmin(axis=1)
