"""What is drawn is what was given, on the axes that were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from influence import plots
from influence.studies.datamodeling import RemovalCurve


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def axes():
    return plt.subplots()[1]


def dots(axes, place=0):
    return np.asarray(axes.collections[place].get_offsets())


def test_predicted_against_actual(axes):
    predicted, actual = np.array([0.1, -0.2, 0.05]), np.array([0.2, -0.1, 0.0])
    assert plots.predicted_against_actual(predicted, actual, axes) is axes
    np.testing.assert_array_equal(dots(axes), np.column_stack([actual, predicted]))
    # Where the two are the same is a diagonal, from corner to corner.
    [line] = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-0.22, 0.22))
    assert plots.predicted_against_actual(predicted, actual, limit=3).get_xlim() == (-3, 3)


@pytest.mark.parametrize("size", [3, 50_000])
def test_scores_by_rank(axes, size):
    scores = np.random.default_rng(0).normal(size=size)
    assert plots.scores_by_rank(scores, axes) is axes
    ranks, drawn = axes.lines[0].get_data()
    np.testing.assert_array_equal(drawn, np.sort(scores)[::-1][ranks - 1])
    assert (ranks[0], ranks[-1]) == (1, size)
    assert len(ranks) <= 1000
    assert axes.get_xscale() == "log"


def test_leverage_against_influence(axes):
    generator = np.random.default_rng(0)
    leverage, scores = generator.uniform(size=2000), generator.normal(size=2000)
    ends = [int(scores.argmin()), int(scores.argmax())]
    assert plots.leverage_against_influence(leverage, scores, axes, marked=ends) is axes
    # Of many points the strongest.
    assert len(dots(axes)) == 1000
    assert np.abs(dots(axes)[:, 1]).min() >= np.median(np.abs(scores)) * 0.99
    for place, point in enumerate(ends):
        np.testing.assert_array_equal(dots(axes, place + 1), [[leverage[point], scores[point]]])
    colors = [axes.collections[place].get_facecolor()[0] for place in (1, 2)]
    assert colors[0][0] > colors[0][1]  # red harms
    assert colors[1][1] > colors[1][0]  # green helps
    assert [text.get_text() for text in axes.texts] == list(map(str, ends))


def test_removal_curve(axes):
    sizes = np.array([0, 5, 10])
    losses = {name: np.random.default_rng(i).uniform(size=(3, 4, 6)) for i, name in enumerate("ab")}
    curve = RemovalCurve(sizes, losses | {"random": np.ones((3, 4, 6))})
    assert plots.removal_curve(curve, axes) is axes
    for line, name in zip(axes.lines, ["a", "b", "random"]):
        assert line.get_label() == name
        np.testing.assert_allclose(line.get_ydata(), curve.losses[name].mean(axis=(1, 2)))
        np.testing.assert_array_equal(line.get_xdata(), sizes)
    assert len(axes.collections) == 1


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_image_grid(shape):
    images = np.random.default_rng(0).uniform(-2, 7, (8, *shape))
    axes = plots.image_grid(images, ["first", "second"], columns=3)
    assert len(axes) == 8
    assert len(axes[0].figure.axes) == 9
    assert [axis.get_title() for axis in axes[:3]] == ["first", "second", ""]
    low, high = images.min(), images.max()
    drawn = np.asarray(axes[4].images[0].get_array()) * (high - low) + low
    np.testing.assert_allclose(drawn.reshape(shape), images[4])
    given = plt.subplots(2, 4)[1]
    limited = plots.image_grid(images, axes=given, limits=(0, 5))
    assert limited[7] is given[1, 3]
    np.testing.assert_allclose(
        np.asarray(limited[0].images[0].get_array()).reshape(shape), np.clip(images[0] / 5, 0, 1)
    )


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"images must be .* their shape is \(3, 4\)"):
        plots.image_grid(np.ones((3, 4)))
    with pytest.raises(ValueError, match="There are 3 images, and 2 axes"):
        plots.image_grid(np.ones((3, 4, 4)), axes=plt.subplots(2)[1])
