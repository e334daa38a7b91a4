"""TensorFlow traces what models share once a process, however many models there are."""

import collections
import functools

import pytest
import tensorflow as tf

from influence.linear import array_functions, functions
from scripts import (
    fig1_components,
    fig2_leave_one_out,
    fig3_smooth_hinge,
    fig4_rbf_vs_inception,
    fig5_training_attack,
    fig6_label_fixing,
    hospital_readmission,
)
from scripts.report.experiment import run


@pytest.fixture
def traces(monkeypatch):
    """How often a function of a name and a signature was traced."""
    counts = collections.Counter()
    compile_function = tf.function

    def counting(function=None, **settings):
        if function is None:
            return functools.partial(counting, **settings)
        of = function.func if isinstance(function, functools.partial) else function
        key = of.__qualname__, str(settings.get("input_signature"))

        def traced(*arguments):
            counts[key] += 1
            return function(*arguments)

        return compile_function(traced, **settings)

    monkeypatch.setattr(tf, "function", counting)
    caches = functions.compiled, functions._scans, array_functions._of_kind
    for cache in caches:
        cache.cache_clear()
    yield counts
    for cache in caches:
        cache.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "config", "options"),
    [
        (fig1_components, fig1_components.Fig1Config, []),
        (fig2_leave_one_out, fig2_leave_one_out.Fig2Config, ["--points", "5"]),
        (fig3_smooth_hinge, fig3_smooth_hinge.Fig3Config, ["--points", "5"]),
        (fig4_rbf_vs_inception, fig4_rbf_vs_inception.Fig4Config, []),
        (fig5_training_attack, fig5_training_attack.Fig5Config, []),
        (fig6_label_fixing, fig6_label_fixing.Fig6Config, ["--jobs", "1"]),
        (hospital_readmission, hospital_readmission.HospitalConfig, []),
    ],
)
def test_experiments_trace_once(tmp_path, traces, module, config, options):
    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]
    options = ["--data", "stand-in", "--scale", "quick", *folders, *options]
    run(module.NAME, config, module.compute, lambda results: {}, options)
    assert traces
    # These have two kinds of a loss, the hinge and the smooth one at all of its temperatures.
    most = 2 if module in (fig3_smooth_hinge, fig4_rbf_vs_inception) else 1
    assert max(traces.values()) <= most, traces.most_common(3)
