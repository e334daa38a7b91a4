"""What the figures claim, shown by the stand-ins for MNIST too: who has no network sees it."""

from functools import partial

import pytest

from influence import AllCNNC
from scripts import fig1_components, fig2_leave_one_out, fig3_smooth_hinge
from scripts.loaders.mnist import load_mnist
from scripts.steps import cnn_leave_one_out, cnn_training


@pytest.fixture(scope="module")
def mnist():
    return load_mnist("stand-in")


@pytest.fixture
def ours(tmp_path, monkeypatch, mnist):
    """compute(...) of an experiment at scale laptop, as {metric: ours}."""
    for script in (fig1_components, fig3_smooth_hinge):
        monkeypatch.setattr(script, "load_mnist", lambda *_: mnist)

    def run(config, compute):
        results = compute(config(data="stand-in", output_dir=str(tmp_path)))
        return {name: value["ours"] for name, value in results.metrics.items()}

    return run


@pytest.mark.slow
def test_fig1_needs_the_loss_and_the_hessian(ours):
    metrics = ours(fig1_components.Fig1Config, fig1_components.compute)
    assert metrics["harmful_same_class"] > 500
    assert metrics["neither"] == 0
    assert metrics["no_hessian"] < metrics["no_train_loss"] < 0.6


@pytest.mark.slow
def test_fig2_is_the_diagonal(ours, mnist):
    # 20 of the 500 points.
    metrics = ours(
        partial(fig2_leave_one_out.Fig2Config, points=20),
        lambda config: fig2_leave_one_out.compute_linear(config, mnist),
    )
    assert metrics["exact_pearson_r"] >= 0.999
    assert metrics["exact_slope"] == pytest.approx(1, abs=0.03)
    assert metrics["lissa_pearson_r"] >= 0.97
    assert metrics["max_refit_gradient_norm"] <= 1e-8


@pytest.mark.slow
def test_fig2_network_s_influence_is_its_retraining(tmp_path, monkeypatch, mnist):
    # As the experiment does it, without the Hessian's panels, which take longer than the rest.
    monkeypatch.setattr(AllCNNC, "hessian", AllCNNC.gauss_newton)
    config = fig2_leave_one_out.Fig2Config()
    images = cnn_training.first_images(mnist.train, cnn_leave_one_out._STAND_IN_IMAGES)
    model, state = cnn_training.trained(config, images, False, tmp_path)
    assert (model.predict(images.x) == images.labels).mean() > 0.98
    wrong = int((model.predict(mnist.test.x) != mnist.test.labels).argmax())
    agreements = cnn_leave_one_out.agreement_after_flow(
        model,
        state,
        (mnist.test.x[[wrong]], mnist.test.labels[[wrong]]),
        points=15,
        damping=config.cnn_damping,
        steps=config.cnn_retraining_steps,
        flow_steps=config.cnn_flow_steps,
    )
    assert agreements[3] >= 0.8  # R of Gauss-Newton


@pytest.mark.slow
def test_fig3_follows_a_smooth_hinge(ours):
    metrics = ours(fig3_smooth_hinge.Fig3Config, fig3_smooth_hinge.compute)
    assert metrics["pearson_r_t0.001"] >= 0.9
    assert metrics["pearson_r_t0.001"] > metrics["pearson_r_t0.1"]
    assert metrics["pearson_r_t0.1"] > metrics["pearson_r_t0"]
