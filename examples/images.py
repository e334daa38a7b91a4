"""Images: a Keras network through its last layer, and the images behind a wrong prediction."""

import keras
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from influence import KerasModel, plots

digits = load_digits()
x, y = (digits.images / 16).astype("float32"), digits.target
x_train, y_train, x_test, y_test = x[:1000], y[:1000], x[1000:], y[1000:]

keras.utils.set_random_seed(0)
layers, l2 = keras.layers, keras.regularizers.L2(1e-3)
top = layers.Dense(10, activation="softmax", kernel_regularizer=l2)
network = keras.Sequential(
    [layers.Input((8, 8)), layers.Flatten(), layers.Dense(32, activation="relu"), top]
)
network.compile("adam", loss="sparse_categorical_crossentropy")
network.fit(x_train, y_train, epochs=20, verbose=0)

# θ is the last layer alone; fit() goes on to the minimum of its objective.
model = KerasModel(network, (x_train, y_train), variables=top).fit()
worst = int(model.losses(x_test, y_test).argmax())
scores = model.influence_on_loss(x_test[[worst]], y_test[[worst]])[0]
predicted = int(model.predict(x_test[[worst]])[0].argmax())
print(f"Test image {worst} is a {y_test[worst]}, and the network says {predicted}.")

figure, axes = plt.subplots(2, 6, figsize=(8.7, 3.6), layout="constrained")
title = f"test {worst}: a {y_test[worst]},\npredicted {predicted}"
plots.image_grid(x_test[[worst]], [title], axes[:, 0], limits=(0, 1))
for row, order in zip(axes[:, 1:], (scores.argsort(), scores.argsort()[::-1])):
    titles = [f"{i}: a {y_train[i]}\n{scores[i]:+.4f}" for i in order[:5]]
    plots.image_grid(x_train[order[:5]], titles, row, limits=(0, 1))
axes[0, 1].set_ylabel("harmful")
axes[1, 1].set_ylabel("helpful")
figure.savefig("images.png", dpi=100)
