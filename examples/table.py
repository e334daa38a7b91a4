"""A table: which patients made the model say this, and can that be trusted?"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from influence import from_sklearn, plots

table, benign = load_breast_cancer(return_X_y=True, as_frame=True)
train, test = (table[:455], benign[:455]), (table[455:], benign[455:])
pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8)).fit(*train)
model = from_sklearn(pipeline, *train)

# The test patient that the model gets most wrong, and the change of that loss without each of the
# 455 training patients.
worst = int(model.losses(*test).argmax())
point = test[0].iloc[[worst]], test[1].iloc[[worst]]
scores = model.influence_on_loss(*point, order="newton")[0]
harmful, helpful = scores.argsort()[:3].tolist(), scores.argsort()[::-1][:3].tolist()
print(f"Test patient {worst}: harmful {harmful}, helpful {helpful}.")

# Fit again without each of the ten that matter most: do the scores foresee it?
validation = model.validate(*point, points=10, order="newton")
print(validation.to_frame())

figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
plots.scores_by_rank(scores, axes[0])
plots.leverage_against_influence(model.leverage(), scores, axes[1], marked=harmful + helpful)
plots.predicted_against_actual(validation.predicted, validation.actual, axes[2])
axes[2].set_title(f"R = {validation.pearson_r:.3f}, slope {validation.slope:.2f}")
figure.savefig("table.png", dpi=100)
