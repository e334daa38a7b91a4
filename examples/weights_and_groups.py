"""Weighted rows in groups: which clinic would change the answer if it had not taken part?"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from influence import from_sklearn, plots
from influence.targets import Coefficient

# 442 patients of twelve clinics; each stands for some of the population.
x, y = load_diabetes(return_X_y=True, as_frame=True)
x = StandardScaler().set_output(transform="pandas").fit_transform(x)
random = np.random.default_rng(0)
clinics = np.sort(random.integers(0, 12, len(x)))
weights = random.uniform(0.5, 2.0, len(x))

estimator = Ridge(alpha=10.0, solver="cholesky").fit(x, y, sample_weight=weights)
model = from_sklearn(estimator, x, y, sample_weight=weights)

# All patients of a clinic at once. Scores of single patients do not simply add up: "newton" takes
# the curvature of the whole clinic along, and "refit" is what really happens.
changes = {
    order: model.influence_of_sets(clinics, x, y, order=order, reduction="mean")
    for order in ("first", "newton", "refit")
}
for clinic, change in enumerate(changes["refit"]):
    print(f"without clinic {clinic:2}: mean squared error {change:+.3f}")
assert np.allclose(changes["newton"], changes["refit"], rtol=1e-2, atol=1e-3)

# And on a conclusion: the coefficient of the body-mass index, without each patient.
single = model.influence_on(Coefficient("bmi"), order="newton")
print("The patient who holds it up most:", int(single.argmin()), f"{single.min():+.2f}")

figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.6), layout="constrained")
for panel, order in zip(axes, ("first", "newton")):
    plots.predicted_against_actual(changes[order], changes["refit"], panel)
    panel.set_title(f'order="{order}"')
figure.savefig("weights_and_groups.png", dpi=100)
