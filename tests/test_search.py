import json

import numpy as np
import pytest
from command import finish, start

from mrl_jax import features_dir
from mrl_jax.evals import plans
from mrl_jax.evals.gallery import Gallery
from mrl_jax.evals.settings import Setting
from mrl_jax.search import check_k, check_models, choose_dims, common_prefix

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    gallery = (rng.normal(size=(3000, 32)) / np.arange(1, 33)).astype(np.float16)
    np.save(path / "g.npy", gallery)
    np.save(path / "y.npy", np.arange(3000, dtype=np.int32))
    np.save(path / "q.npy", gallery[100:160])
    np.save(path / "other.npy", gallery[::-1])
    np.save(path / "narrow.npy", gallery[:, :16])
    return path


def search(files, *more, expect=0, gallery="g.npy,y.npy"):
    names = [f"{files}/{name}" for name in gallery.split(",")]
    arguments = [f"--gallery={','.join(names)}", f"--query={files}/q.npy", f"--index={files}/index", *more]
    return finish(start("mrl_jax.search", *arguments), expect)


@pytest.mark.slow
def test_plans_once_then_serves(files):
    assert "error: --dims=abc: give whole numbers" in search(files, "--dims=abc", expect=1)
    output = search(files, "--target=recall=0.9", "--k=5", "--dims=8,16", "--kinds=flat,ivf", "--show=1")
    assert "exact search at 32 dims" in output
    assert "query 0: 100 (100), " in output
    assert {"plan.json", "pareto.png", "answers.json"} <= {p.name for p in (files / "index").iterdir()}
    before = (files / "index" / "plan.json").read_bytes()
    output = search(files, "--k=3", "--batch=7", f"--out={files}/a.json")
    assert "exact search at" not in output
    record = json.loads((files / "a.json").read_text())
    assert [row[0] for row in record["neighbors"]] == list(range(100, 160))
    assert record["labels"] == record["neighbors"]
    assert len(record["squared_distances"][0]) == 3
    assert "was planned for another gallery" in search(files, expect=1, gallery="other.npy")
    assert "error: --k=3001: --gallery has 3000 rows" in search(files, "--k=3001", expect=1)
    assert "has a plan already" in search(files, "--target=recall=0.5", expect=1)
    assert "not known that both are of one checkpoint" in search(files, expect=1, gallery="narrow.npy")
    assert (files / "index" / "plan.json").read_bytes() == before


def of_model(width=None, sha="a" * 64, step=7, dim=4, dims=()):
    identity = {"checkpoint": {"step": step, "manifest_sha256": sha}, "dataset": {}, "dtype": "float32"}
    identity |= {} if width is None else {"width": width}
    info = features_dir.Info(1, dims, identity=identity if sha else {})
    return features_dir.Features(np.arange(3 * dim).reshape(3, dim), np.zeros(3, np.int32), info)


def test_sub_models_of_one_checkpoint_search_each_others_galleries():
    found = check_models(of_model(), of_model(0.25), False)
    assert "at width 1; queries: step 7 of the checkpoint aaaaaaaa at width 0.25" in found
    assert check_models(of_model(sha=""), of_model(sha=""), False) == ""
    assert "not known" in check_models(of_model(sha=""), of_model(), False)
    for other in (of_model(sha="b" * 64), of_model(step=8)):
        with pytest.raises(
            ValueError, match=r"of the checkpoint aaaaaaaa at width 1, --query those of .*across_models"
        ):
            check_models(of_model(), other, False)
        assert check_models(of_model(), other, True)


def test_sub_models_of_other_sizes_are_compared_at_a_prefix_that_was_trained():
    large, small = of_model(dim=8, dims=(4, 8)), of_model(0.5, dims=(4,))
    for gallery, queries in ((large, small), (small, large)):
        found = common_prefix(gallery, queries)
        np.testing.assert_array_equal(found[0].z, gallery.z[:, :4])
        np.testing.assert_array_equal(found[1].z, queries.z[:, :4])
    assert common_prefix(large, large)[0].z is large.z
    message = r"--gallery has 8 features, --query 5: .* prefix of 5 was not trained, only \[4, 8\]: .*export --dim"
    with pytest.raises(ValueError, match=message):
        common_prefix(large, of_model(dim=5, dims=(5,)))
    for other in (of_model(sha=""), of_model(sha="b" * 64)):
        with pytest.raises(ValueError, match=r"--query 4, and it is not known .* embed both with one checkpoint or"):
            common_prefix(large, other)


def test_recalibrated_features_are_of_another_model():
    found = of_model()
    found.info.identity["recalibrated"] = 20
    with pytest.raises(ValueError, match=r"those of .* at width 1, recalibrated on 20 batches"):
        check_models(of_model(), found, False)
    assert check_models(found, found, False)


def test_dims_are_whole_numbers_and_those_not_trained_are_named(capsys):
    assert choose_dims(["8", "16"], (8, 16, 32), 32) == [8, 16]
    assert choose_dims(["12"], (), 32) == [12]
    assert choose_dims([], (8, 16, 32), 32) == [8, 16]
    assert capsys.readouterr().out == ""
    assert choose_dims(["8", "12"], (8, 16, 32), 32) == [8, 12]
    assert capsys.readouterr().out == "Not trained, tried all the same: dims [12] (trained: [8, 16, 32]).\n"
    with pytest.raises(ValueError, match="--dims=8,abc: give whole numbers separated by commas"):
        choose_dims(["8", "abc"], (), 32)


def test_more_neighbours_than_a_plan_orders_are_refused(tmp_path):
    gallery = Gallery(np.ones((50, 32), np.float32))
    short = plans.Served(gallery, Setting("flat", 8, 0, ((30, 16), (20, 32))), None, {})
    check_k(20, short, tmp_path)
    with pytest.raises(ValueError, match=r"--k=21: the plan in .* orders the 20 best rows: --k must be in 1\.\.20, or"):
        check_k(21, short, tmp_path)
    whole = plans.Served(gallery, Setting("exact", 32), None, {})
    check_k(50, whole, tmp_path)
    with pytest.raises(ValueError, match=r"--k=51: --gallery has 50 rows, so --k must be in 1\.\.50"):
        check_k(51, whole, tmp_path)


def test_vectors_without_labels(files):
    z, labels, info = features_dir.open_vectors(files / "q.npy")
    assert z.shape == (60, 32)
    assert labels is None
    assert info.label_names is None
    assert features_dir.open_vectors(f"{files}/g.npy,{files}/y.npy").labels[7] == 7
    with pytest.raises(ValueError, match="must be floats of shape"):
        features_dir.open_vectors(files / "y.npy")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        features_dir.open_vectors(files / "none.npy")
