import dataclasses
import json

import numpy as np
import pytest

from mrl_jax import indexes
from mrl_jax.evals import exact, planner, plans, retrieval, settings
from mrl_jax.evals.gallery import Gallery
from mrl_jax.evals.settings import Setting

pytest.importorskip("faiss")
K = 5


@pytest.fixture(scope="module")
def data():
    """Clusters with prefix structure: gallery, labels, queries, labels."""
    rng, feature = np.random.default_rng(0), np.arange(1, 129, dtype=np.float32)
    centres = rng.normal(size=(60, 128)).astype(np.float32) / feature
    labels, query_labels = rng.integers(0, 60, 4000), rng.integers(0, 60, 100)
    draw = lambda y: (rng.normal(size=(len(y), 128)) * 0.4 / feature).astype(np.float32) + centres[y]  # noqa: E731
    return Gallery(draw(labels)), labels, draw(query_labels), query_labels


def make(data, target, **options):
    gallery, _, queries, _ = data
    options = {"dims": (8, 16), "kinds": ("flat", "ivf"), "k": K} | options
    return planner.plan(queries, gallery, planner.parse_target(target), **options)


@pytest.fixture(scope="module")
def found(data):
    return make(data, "recall=0.95")


def recall(data, rows):
    truth = exact.search(data[2], data[0].rows, (128,), K)[1][0]
    return float(settings.recall_of(truth)(rows).mean())


def test_what_is_simulated_is_what_the_search_answers(data, found):
    """The planner never ran most settings: the quality that it gives them is theirs all the same."""
    gallery, _, queries, _ = data
    rng = np.random.default_rng(0)
    funnels = [p for p in found.points if len(p.setting.rerank) == 2]
    for point in [*rng.choice(found.points, 12), *rng.choice(funnels, 8)]:
        setting = point.setting
        index = found.built.get((setting.index, setting.dim))
        rows = planner.run(setting, index, queries, gallery, K)[1]
        assert recall(data, rows) == pytest.approx(point.quality, abs=1e-9), setting.name


def test_the_chosen_one_meets_the_target_and_is_the_fastest_measured_that_does(data, found):
    rows = found.search(data[2], data[0])[1]
    assert recall(data, rows) == pytest.approx(found.chosen.quality)
    assert found.chosen.quality - found.chosen.error >= 0.95
    assert found.chosen.ms == min(p.ms for p in found.points if p.measured)
    assert sum(p.measured for p in found.points) >= 6
    assert len(found.points) == len({p.setting for p in found.points}) > 50


def test_one_prediction_far_too_low_leaves_others_to_be_measured():
    def finalists(*times):
        points = [planner.Point(Setting("flat", 8 + i), 1.0, 0.0, ms, 1.0) for i, ms in enumerate(times)]
        return [p.ms for p in planner._finalists(points, planner.parse_target("recall=0.9"), 1.0)]

    assert finalists(*range(90, 10, -10), 1) == [1, 20, 30, 40, 50, 60]
    assert finalists(9, 1, 5) == [1, 5, 9]
    assert finalists(*[2] * 20, 1.5, 3) == [1.5, *[2] * 11]


def test_a_recall_of_one_is_always_met(data):
    assert make(data, "recall=1", kinds=("flat",)).chosen.quality == 1.0


def test_budgets(data):
    few = {"dims": (8,), "kinds": ("flat",)}
    cheap = make(data, "mflops=0.04", **few)
    assert cheap.chosen.mflops <= 0.04
    assert cheap.chosen.quality == max(p.quality for p in cheap.points if p.mflops <= 0.04)
    slow = make(data, "latency=1000", **few)
    assert slow.chosen.quality == max(p.quality for p in slow.points)
    with pytest.raises(ValueError, match=r"target mflops=1e-06: nothing that was tried is within it; the least is"):
        make(data, "mflops=0.000001", **few)


def test_precision_by_labels(data):
    gallery, labels, queries, query_labels = data
    found = make(data, "map_loss=1", labels=(query_labels, labels))
    rows = found.search(queries, gallery)[1]
    whole = exact.search(queries, gallery.rows, (128,), K)[1][0]
    values = [retrieval.metrics(labels[r], query_labels, K, np.full(len(r), K))["map_paper"] for r in (rows, whole)]
    assert values[0] == pytest.approx(found.chosen.quality)
    assert values[0] >= values[1] - 0.01
    with pytest.raises(ValueError, match="map_loss needs labels"):
        make(data, "map_loss=1")


def test_the_front_holds_whatever_is_not_beaten(found):
    front = planner.pareto(found.points)
    beaten = [p for p in found.points if any(o.ms < p.ms and o.quality > p.quality for o in found.points)]
    assert not any(p in beaten for p in front)
    assert all(a.ms <= b.ms and a.quality < b.quality for a, b in zip(front, front[1:]))


def test_a_plan_is_saved_and_serves_its_own_gallery_only(data, found, tmp_path):
    gallery, _, queries, _ = data
    plans.save(found, gallery, tmp_path)
    served = plans.load(tmp_path, Gallery(gallery.rows))
    np.testing.assert_array_equal(served.search(queries, K)[1], found.search(queries, gallery)[1])
    assert served.setting == found.chosen.setting
    assert json.loads((tmp_path / "plan.json").read_text())["settings_tried"] == len(found.points)
    with pytest.raises(ValueError, match="was planned for another gallery"):
        plans.load(tmp_path, Gallery(gallery.rows + 1))
    indexes.save(indexes.build("flat", gallery.rows, 32), tmp_path)
    with pytest.raises(ValueError, match="holds the index flat@32"):
        plans.load(tmp_path, gallery)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a plan"):
        plans.load(tmp_path, gallery)


def test_settings_read_back():
    setting = Setting("ivf", 16, 8, ((100, 32), (20, 64)))
    assert settings.from_json(json.loads(json.dumps(dataclasses.asdict(setting)))) == setting
    assert setting.name == "ivf@16(8) > 100@32 > 20@64"


@pytest.mark.parametrize(
    "text", ["recall", "recall=2", "recall=x", "latency=0", "latency=inf", "recal=0.9", "mflops=nan"]
)
def test_targets_that_are_none(text):
    with pytest.raises(ValueError, match="target"):
        planner.parse_target(text)


def test_wrong_arguments(data):
    with pytest.raises(ValueError, match="did you mean 'ivf'"):
        make(data, "recall=0.9", kinds=("ivff",))
    with pytest.raises(ValueError, match=r"in 1\.\.128"):
        make(data, "recall=0.9", dims=(129,))
    with pytest.raises(ValueError, match="k=4001 neighbours"):
        make(data, "recall=0.9", k=4001)
