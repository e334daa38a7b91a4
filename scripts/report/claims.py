"""What the paper claims of every experiment, which numbers show it, and how near ours must be.

The paper's numbers themselves are in the JSON of each experiment, beside ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """When a number of ours agrees with the paper's.

    Attributes:
        words: the criterion, as a reader sees it.
        met: of the paper's number, ours, and all numbers of the experiment by name.
    """

    words: str
    met: Callable[[object, object, dict], bool]


SAME = Criterion("the same", lambda paper, ours, _: ours == paper)


def within(tolerance: float, first: int | None = None) -> Criterion:
    """Ours differs by ``tolerance`` at most; of a list every number, or the ``first`` ones."""

    def met(paper, ours, _):
        papers, own = _listed(paper)[:first], _listed(ours)[:first]
        return len(papers) == len(own) and all(
            abs(theirs - number) <= tolerance for theirs, number in zip(papers, own)
        )

    return Criterion(
        f"±\N{NO-BREAK SPACE}{tolerance:g}" + (f" (first {first})" if first else ""), met
    )


def ends_within(tolerance: float) -> Criterion:
    """The smallest and the largest of a list differ by ``tolerance`` at most."""

    def met(paper, ours, _):
        return all(abs(end(paper) - end(ours)) <= tolerance for end in (min, max))

    return Criterion(f"±\N{NO-BREAK SPACE}{tolerance:g}, smallest and largest", met)


AT_LEAST = Criterion("at least", lambda paper, ours, _: ours >= paper)


def inside(interval: str) -> Criterion:
    """The paper's number lies in our interval, a number of the experiment by this name."""

    def met(paper, _, numbers):
        low, high = numbers[interval]
        return low <= paper <= high

    return Criterion("in our interval", met)


def _listed(value):
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class Number:
    """A number to show: in words, and the criterion where one makes sense."""

    label: str
    criterion: Criterion | None = None


def agrees(number: Number, paper, ours, numbers: dict, data: str) -> bool | None:
    """Whether ours meets the criterion; None where there is nothing to compare: no number of the
    paper or of ours, no criterion, or stand-in data."""
    if number.criterion is None or paper is None or ours is None or data == "stand-in":
        return None
    return number.criterion.met(paper, ours, numbers)


@dataclass(frozen=True)
class Claim:
    """What an experiment is to show.

    Attributes:
        text: the paper's claim, in one sentence.
        figures: what is drawn, in words, by the file name of each figure. A figure that is not
            here is not shown: photographs, which are never published, are not.
        numbers: by the name of the metric.
    """

    text: str
    figures: dict[str, str]
    numbers: dict[str, Number]


# Of Figure 6: the paper's are read off its figure, to ±0.004, and spaCy's vocabulary is another.
ACCURACY, FIXED = within(0.01), within(0.03)

CLAIMS = {
    "fig1_components": Claim(
        "Influence needs both the training loss and the inverse Hessian: without them, harmful "
        "training images that have the test image's own label look helpful.",
        {
            "fig1_components": "Three scatter plots of the full influence of every training image "
            "on one test image, against influence without the training loss, without the inverse "
            "Hessian and without either; images with the test label are green, others red. Beside "
            "them, the test image and a harmful training image."
        },
        {
            "harmful_same_class": Number("harmful training images with the test label"),
            "no_train_loss": Number("share of them found without the training loss"),
            "no_hessian": Number("share found without the inverse Hessian"),
            "neither": Number("share found without either"),
        },
    ),
    "fig2_leave_one_out": Claim(
        "Influence predicts what leaving a training point out and retraining really does to the "
        "loss, exactly for a linear model and still well for a convolutional network.",
        {
            "fig2_leave_one_out": "Scatter plots of predicted against actual changes of a test "
            "loss when a training point is left out, with the diagonal: a linear model solved "
            "exactly, the same by LiSSA and, where it was run, a convolutional network.",
            "fig2_leave_one_out_cnn": "Ten scatter plots for the convolutional network: above "
            "against plain retraining, below against the proximal objective; from left to right "
            "the Hessian and the Gauss-Newton matrix, each with the paper's damping and with "
            "damping chosen from the spectrum, and a Newton step without the point's own "
            "curvature.",
        },
        {
            "exact_pearson_r": Number("linear, exact: Pearson R"),
            "exact_slope": Number("linear, exact: slope"),
            "lissa_pearson_r": Number("linear, LiSSA: Pearson R"),
            "lissa_slope": Number("linear, LiSSA: slope"),
            "prediction_min": Number("smallest prediction", within(0.0005)),
            "prediction_max": Number("largest prediction", within(0.001)),
            "points": Number("points left out, one at a time", SAME),
            "max_refit_gradient_norm": Number("largest gradient norm of a refit"),
            "test_index": Number("test image explained"),
            "cnn_pearson_r": Number("network: Pearson R", AT_LEAST),
            "cnn_slope": Number("network: slope"),
            "cnn_panel": Number("network: curvature of that panel"),
            "cnn_test_accuracy": Number("network: test accuracy", within(0.005)),
            "cnn_train_accuracy": Number("network: training accuracy", within(0.005)),
            "cnn_damping": Number("network: damping", SAME),
            "cnn_test_index": Number("network: test image explained"),
        },
    ),
    "fig2_training": Claim(
        "(Ours.) The longer the network trains, the nearer is the influence by its Hessian to what "
        "retraining does: before the learning rate falls the damped Hessian is not even positive "
        "definite.",
        {
            "fig2_training": "Three curves over the steps of Adam, with vertical lines where its "
            "rate falls: the objective, the norm of its gradient, and the error rates on training "
            "and test images."
        },
        {
            "train_accuracy": Number("training accuracy", within(0.005)),
            "test_accuracy": Number("test accuracy", within(0.005)),
            "gradient_norm": Number("norm of the gradient at the end"),
            "milestones": Number("steps"),
            "smallest_eigenvalue": Number("smallest eigenvalue of the Hessian there"),
            "hessian_r": Number("R with the Hessian + 0.01"),
            "hessian_slope": Number("its slope"),
            "gauss_newton_r": Number("R with the Gauss-Newton matrix + 0.01"),
            "gauss_newton_slope": Number("its slope"),
        },
    ),
    "fig2_long_retraining": Claim(
        "(Ours.) The flow that stands for the 30,000 steps of a retraining ends where they do.",
        {
            "fig2_long_retraining": "Scatter plots of the flow's change of the test loss, and of "
            "the predicted one, against that after 30,000 real steps, for points spread over the "
            "ranking."
        },
        {
            "flow_pearson_r": Number("flow against real steps: Pearson R"),
            "flow_slope": Number("its slope"),
            "predicted_pearson_r": Number("influence against real steps: Pearson R"),
            "predicted_slope": Number("its slope"),
        },
    ),
    "fig3_smooth_hinge": Claim(
        "For a hinge loss, which has no curvature, the influence on a smooth version of it "
        "predicts what refitting the hinge itself does.",
        {
            "fig3_smooth_hinge": "A line plot of the hinge and of smooth hinges against the "
            "margin, and three scatter plots of predicted against actual changes of a test loss "
            "for the temperatures 0, 0.001 and 0.1, with the diagonal.",
            "fig3_temperatures": "A line plot of the correlation and of the slope of predicted "
            "against actual changes, by temperature.",
        },
        {
            "pearson_r_t0": Number("Pearson R, hinge (t = 0)", within(0.02)),
            "pearson_r_t0.001": Number("Pearson R, t = 0.001", within(0.02)),
            "pearson_r_t0.1": Number("Pearson R, t = 0.1", within(0.02)),
            "slope_t0.001": Number("slope, t = 0.001"),
            "slope_t0.1": Number("slope, t = 0.1"),
            "points": Number("points left out, one at a time", SAME),
            "test_index": Number("test image explained"),
        },
    ),
    "fig4_rbf_vs_inception": Claim(
        "Two models use the same photographs differently: for an RBF support vector machine "
        "influence decays with distance, for Inception it does not, and some dogs help a fish.",
        {
            "fig4_rbf_vs_inception": "Two scatter plots of the influence of every training image "
            "on one test fish against its Euclidean distance, for the RBF support vector machine "
            "above and Inception below; fish are green, dogs red."
        },
        {
            "distance_correlation_rbf": Number("correlation of |influence| with distance, RBF"),
            "distance_correlation_inception": Number("correlation, Inception"),
            "dogs_among_top_50": Number("dogs among the 50 most helpful images"),
            "images": Number("photographs"),
            "inception_weights": Number("Inception's weights", SAME),
            "training_images": Number("training images", SAME),
            "test_images": Number("test images", SAME),
            "test_index": Number("test image explained"),
            "inception_test_accuracy": Number("Inception: test accuracy", within(0.01)),
            "inception_train_accuracy": Number("Inception: training accuracy", within(0.01)),
            "inception_objective": Number("Inception: training objective", within(0.001)),
            "inception_train_loss": Number("Inception: training loss", within(0.001)),
            "inception_test_loss": Number("Inception: test loss", within(0.01)),
            "inception_parameter_norm": Number("Inception: norm of the weights", within(0.1)),
        },
    ),
    "fig5_training_attack": Claim(
        "Changing a few training images by less than half a grey level, which nobody can see, "
        "flips most test predictions: more than half with one image and nearly all with ten.",
        {
            "fig5_training_attack": "Left, the share of test images flipped against the number "
            "of training images changed, ours with intervals and the paper's. Middle, for each "
            "test image, the training images needed against its margin before the attack, with "
            "the edges of the margins' quarters. Right, mean test loss and number of wrong test "
            "images while one training image is changed to attack many test images."
        },
        {
            "share_flipped_one": Number("share flipped with one image", inside("interval_one")),
            "interval_one": Number("… 95% interval"),
            "share_flipped_two": Number("share flipped with two", inside("interval_two")),
            "interval_two": Number("… 95% interval"),
            "share_flipped_ten": Number("share flipped with ten", inside("interval_ten")),
            "interval_ten": Number("… 95% interval"),
            "tests": Number("test images attacked"),
            "needed_by_quarter": Number("images needed, by quarter of the margins"),
            "margin_rank_correlation": Number("rank correlation of images needed and margin"),
            "median_margin": Number("median margin of the test images"),
            "flipped_one": Number("of them flipped with one"),
            "flipped_ten": Number("of them flipped with ten"),
            "confirmed_from_scratch": Number("flips confirmed by a fit from zero"),
            "changed_after_rounding": Number("images that 8 bits show as changed", SAME),
            "images": Number("photographs"),
            "inception_weights": Number("Inception's weights", SAME),
            "test_images": Number("test images", SAME),
            "correct": Number("of them classified correctly", within(6)),
            "steps": Number("most steps of an attack", SAME),
            "multi_tests": Number("one image against many: test images", SAME),
            "multi_flipped": Number("one against many: flipped", AT_LEAST),
            "multi_steps": Number("one against many: steps"),
            "multi_loss_before": Number("one against many: loss before"),
            "multi_loss_after": Number("one against many: loss after"),
        },
    ),
    "fig6_label_fixing": Claim(
        "Checking the training e-mail with the largest self-influence first finds flipped labels "
        "sooner than checking by training loss, and far sooner than at random.",
        {
            "fig6_label_fixing": "Two line plots against the share of training e-mail checked, "
            "with error bars: test accuracy, and the share of flipped labels fixed; by influence, "
            "by the score of 2017, by training loss and at random.",
            "fig6_label_fixing_flips": "The same two line plots for each share of flipped labels, "
            "side by side.",
        },
        {
            "fixed_influence": Number("flips fixed at 5% to 30% checked, self-influence"),
            "fixed_influence_2017": Number("flips fixed, score of 2017", FIXED),
            "fixed_loss": Number("flips fixed, training loss", FIXED),
            "fixed_random": Number("flips fixed, at random"),
            "accuracy_influence": Number("test accuracy then, self-influence"),
            "accuracy_influence_2017": Number("test accuracy, score of 2017", ACCURACY),
            "accuracy_loss": Number("test accuracy, training loss", ACCURACY),
            "accuracy_random": Number("test accuracy, at random", ACCURACY),
            "clean_accuracy": Number("test accuracy, no label flipped", ACCURACY),
            "flipped_accuracy": Number("test accuracy, 10% flipped", ACCURACY),
            "train_documents": Number("training e-mail", SAME),
            "test_documents": Number("test e-mail", SAME),
        },
    ),
    "hospital_readmission": Claim(
        "Influence finds the reason of a wrong prediction: the few children in the training set "
        "decide what the model says of a child.",
        {
            "hospital_readmission": "For the true optimum, left, and the early-stopped fit of "
            "2017, right: above, a bar chart of the ten most harmful and ten most helpful "
            "training patients, children in orange; below, a bar chart of the input gradient of "
            "the helpful child's influence by feature."
        },
        {
            "rows": Number("patients", SAME),
            "features": Number("features", SAME),
            "children_train_before": Number("children readmitted, of all: before", SAME),
            "children_train_after": Number("children readmitted, of all: after", SAME),
            "children_test": Number("children in the test set", SAME),
            "test_index": Number("test child explained", SAME),
            "top_influences_early_stopped": Number(
                "largest influences, early-stopped fit", within(0.001, first=4)
            ),
            "top_influences": Number("largest influences, true optimum"),
            "children_over_next_early_stopped": Number(
                "children over the next patient, early-stopped fit", ends_within(1)
            ),
            "children_over_next": Number("children over the next patient, true optimum"),
            "coefficients_larger_than_child_early_stopped": Number(
                "coefficients larger than the child indicator's, early-stopped fit", within(2)
            ),
            "coefficients_larger_than_child": Number(
                "coefficients larger than the child indicator's, true optimum"
            ),
            "flips_early_stopped": Number(
                "test children whose prediction flips, early-stopped fit", within(2)
            ),
            "flips_at_optimum": Number("test children whose prediction flips, true optimum"),
            "gradient_norm_early_stopped": Number("gradient norm, early-stopped fit"),
            "gradient_norm": Number("gradient norm, true optimum"),
        },
    ),
    "datamodeling_mnist": Claim(
        "(Ours, beside a published benchmark.) Scores foresee what training on random halves of "
        "the data does to test losses: for a regression at its minimum almost entirely, for a "
        "network as far as chance lets them.",
        {
            "datamodeling_mnist": "Bars of linear datamodeling scores with intervals, the "
            "published ones as orange lines and ceilings dotted: of a logistic regression by the "
            "published recipe, of one at its minimum, and of a network."
        },
        {
            "lr_loo_published": Number("regression, published recipe: leave-one-out R", AT_LEAST),
            "lr_lds_published": Number("regression, published recipe: LDS", AT_LEAST),
            "lr_lds_published_interval": Number("… 95% interval"),
            "lr_lds_ceiling": Number("… ceiling"),
            "lr_tracin_lds": Number("… TracIn: LDS"),
            "lr_loo": Number("regression at the minimum, λ = 0.01: leave-one-out R"),
            "lr_lds_first": Number("… LDS, first order"),
            "lr_lds": Number("… LDS, Newton step"),
            "lr_weak_loo": Number("the same with λ = 0.001: leave-one-out R"),
            "lr_weak_lds_first": Number("… LDS, first order"),
            "lr_weak_lds": Number("… LDS, Newton step"),
            "mlp_lds": Number("network: LDS", AT_LEAST),
            "mlp_lds_interval": Number("… 95% interval"),
            "mlp_lds_ensemble": Number("network, ensemble: LDS", AT_LEAST),
            "mlp_lds_ensemble_interval": Number("… 95% interval"),
            "mlp_lds_ceiling": Number("… ceiling"),
            "mlp_tracin_lds": Number("network, TracIn: LDS"),
            "mlp_ekfac_lds": Number("network, EK-FAC: LDS"),
            "mlp_last_layer_lds": Number("network, last layer alone: LDS"),
            "mlp_damping": Number("network: damping, chosen"),
            "subsets": Number("random halves", SAME),
            "tests": Number("test images, regression", SAME),
            "mlp_tests": Number("test images, network"),
        },
    ),
}
