"""Texts: which messages taught the filter this word, and which labels deserve a look?"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from influence import from_sklearn, plots

# Messages made of phrases; 15 of 300 labels are wrong.
SPAM = ["win a prize", "cheap pills", "click this link", "claim your money", "free offer now"]
HAM = ["see you at lunch", "the report is ready", "call me tonight", "meeting moved to noon"]
BOTH = ["hello", "please", "today", "thank you", "as discussed", "for you", "this week"]
random = np.random.default_rng(0)
labels = random.integers(0, 2, 300)
messages = [
    " ".join(
        random.permutation([*random.choice(SPAM if spam else HAM, 2), *random.choice(BOTH, 3)])
    )
    for spam in labels
]
wrong = random.choice(300, 15, replace=False)
labels[wrong] = 1 - labels[wrong]

pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=3.0, tol=1e-8))
model = from_sklearn(pipeline.fit(messages, labels), messages, labels)

# A message that is filtered though it should not be: who is behind that?
message, label = ["please call me for you claim your free lunch money today"], [0]
scores = model.influence_on_loss(message, label, order="newton")[0]
for i in scores.argsort()[:3]:
    print(f"{scores[i]:+.3f}  {'spam' if labels[i] else 'ham '}  {messages[i]}")

# Labels that nothing but their own message speaks for.
doubtful = model.self_influence()
first = doubtful.argsort()[::-1][:30]
print(f"Of 15 wrong labels {np.isin(wrong, first).sum()} are among the first 30.")

figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
plots.scores_by_rank(doubtful, axes)
ranks = np.flatnonzero(np.isin(doubtful.argsort()[::-1], wrong)) + 1
axes.plot(ranks, np.sort(doubtful)[::-1][ranks - 1], "o", color="tab:red", label="wrong label")
axes.set(ylabel="self-influence")
axes.legend(frameon=False)
figure.savefig("text.png", dpi=100)
