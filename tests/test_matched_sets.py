"""The command that compares models: which features fit together, what is left out, what it writes."""

import json
import pickle

import command
import numpy as np
import pytest

from mrl_jax import compatibility, features_dir, matched_sets, results
from mrl_jax.evals import matching
from mrl_jax.evals.compatibility import cross_matrix, measure
from mrl_jax.matched_sets import open_sets

IDS, CAMERAS = np.arange(12) % 4, np.arange(12) // 4


def save(path, z, labels=IDS, cameras=CAMERAS, **more):
    path.mkdir(parents=True, exist_ok=True)
    np.save(path / "features.npy", z.astype(np.float32))
    np.save(path / "labels.npy", labels)
    for name, values in (({} if cameras is None else {"camera": cameras}) | more).items():
        np.save(path / features_dir.FIELDS[name], values)
    return str(path)


@pytest.fixture
def models(tmp_path):
    """Queries and galleries of three models: `new` sees more than `old` in one space, `other` in its own."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    queries, galleries = {}, {}
    for side, found in (("query", queries), ("gallery", galleries)):
        noise = rng.normal(size=(12, 8))
        rows = {"old": centres[IDS] + 1.5 * noise, "new": centres[IDS] + 0.3 * noise}
        rows["other"] = rows["new"] @ turn
        for name, z in rows.items():
            found[name] = save(tmp_path / name / side, z)
    return queries, galleries


def two(models, *names):
    return ({name: side[name] for name in names} for side in models)


def test_the_matrix_is_that_of_the_library(models):
    sets = open_sets(*models)
    found = compatibility.matrices(sets, ("map", "cmc@1", "tar@0.1"), (4, 8))
    for metric, by_dim in found.items():
        for dim, matrix in by_dim.items():
            cut = [{name: z[:, :dim] for name, z in side.items()} for side in (sets.queries, sets.galleries)]
            expected, _ = cross_matrix(*cut, IDS, IDS, CAMERAS, CAMERAS, metric)
            np.testing.assert_array_equal(matrix, expected)
    judged = compatibility.judge(sets, found["map"][8], "")
    assert "new in old" in judged["upgraded"]
    assert "other in new" not in judged["upgraded"]
    assert judged["pairs"] == 3
    m = found["map"][8]
    assert judged["update_gain"]["new in old"] == pytest.approx((m[1, 0] - m[0, 0]) / (m[1, 1] - m[0, 0]))
    alone = compatibility.judge(sets, m, "other")
    assert alone["pairs"] == 1
    assert alone["update_gain"] == {"new in old": pytest.approx((m[1, 0] - m[0, 0]) / (m[2, 2] - m[0, 0]))}
    assert set(alone["upgrade_scores"]) == {"new in old"}
    assert judged["upgrade_scores"] == {}


def test_sizes_that_differ_are_compared_at_their_prefix(models, tmp_path):
    queries, galleries = two(models, "old", "new")
    z = np.load(f"{galleries['old']}/features.npy")
    galleries["old"] = save(tmp_path / "short", z[:, :6])
    sets = open_sets(queries, galleries)
    assert compatibility.dims_of(sets, ()) == (6,)
    with pytest.raises(ValueError, match=r"--dims=4,8: \[8\] are not in 1\.\.6, as the sizes are .*'old': 6"):
        compatibility.dims_of(sets, (4, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": IDS[::-1]}, "differ in their labels: embed the same split"),
        ({"cameras": CAMERAS[::-1]}, r"differ in their cameras\.npy"),
        ({"cameras": None}, "differ in their files"),
        ({"z": np.zeros((11, 8)), "labels": IDS[1:], "cameras": CAMERAS[1:]}, r"number of rows \(11 and 12\)"),
        ({"z": np.full((12, 8), np.nan)}, "--galleries: new:.*feature 0 of row 0 is nan"),
    ],
)
def test_features_of_other_rows_are_refused(models, tmp_path, change, message):
    queries, galleries = two(models, "old", "new")
    galleries["new"] = save(tmp_path / "wrong", **({"z": np.ones((12, 8))} | change))
    with pytest.raises(ValueError, match=message):
        open_sets(queries, galleries)


def test_one_camera_alone_leaves_nothing_to_find(models, tmp_path):
    z = np.ones((12, 8))
    one = {"m": save(tmp_path / "one", z, cameras=np.zeros(12, int))}
    with pytest.raises(ValueError, match=r"of its identity by another camera: .*--camera_rule=off"):
        compatibility.compatibility.check_known(open_sets(one, one).matching)
    strangers = {"m": save(tmp_path / "strangers", z, IDS + 4, np.zeros(12, int))}
    with pytest.raises(ValueError, match=r"of its identity: nothing to find; name the queries and the gallery of one"):
        compatibility.compatibility.check_known(open_sets(one, strangers).matching)
    assert compatibility.compatibility.check_known(open_sets(one, one, camera_rule="off").matching).all()
    none = {"m": save(tmp_path / "none", z, cameras=None)}
    assert open_sets(one, none).matching.query_cameras is None
    with pytest.raises(ValueError, match=r"camera_rule=on: queries and galleries need cameras\.npy"):
        open_sets(one, none, camera_rule="on")


def test_a_rate_among_what_is_not_there_is_refused_before_ranking(models):
    matching_ = open_sets(*models).matching
    known = compatibility.compatibility.check_known(matching_)
    compatibility.compatibility.check_rates(matching_, known, ["map", "tar@0.1"])
    message = r"--metrics=map,tpir@0\.1: tpir@0\.1 cannot be measured: .* all 12 have something: leave it out, or add"
    with pytest.raises(ValueError, match=message):
        compatibility.compatibility.check_rates(matching_, known, ["map", "tpir@0.1"])
    compatibility.compatibility.check_rates(matching_, np.arange(12) > 0, ["tpir@0.1"])
    z, one = {"m": np.ones((3, 2), np.float32)}, np.zeros(3, int)
    with pytest.raises(ValueError, match=r"--metrics=tar@0\.1: tar@0\.1 cannot .* all pairs are of one: leave it out"):
        cross_matrix(z, z, one, one, metric="tar@0.1")


def manifest(path, names, step=1):
    """The features at `path` as if embedded, with names of identities."""
    z, labels, _ = features_dir.open_features(path)
    camera = features_dir.open_features(path).info.fields["camera"]
    identity = {
        "checkpoint": {"step": step, "manifest_sha256": "a"},
        "dataset": {"name": "d", "split": "s", "sha256_of_three": "b"},
        "fields": {"camera": features_dir.digest(camera)},
    }
    facts = {"format": 1, "identity": identity, "rows": len(z), "dim": z.shape[1], "dtype": "float32", "labels": []}
    facts |= {"block_rows": len(z), "blocks": [features_dir.block_digest(np.asarray(z), np.asarray(labels))]}
    facts |= {"num_classes": len(names), "label_names": names, "dims": [4, 8]}
    with open(f"{path}/manifest.json", "w", encoding="utf-8") as file:
        json.dump(facts, file)
    return path


def test_identities_are_matched_by_name_and_junk_is_left_out(models):
    queries, galleries = two(models, "new")
    manifest(queries["new"], ["a", "b", "c", "d"])
    manifest(galleries["new"], ["b", "a", "-1", "0000"])
    sets = open_sets(queries, galleries)
    assert sets.dims == (4, 8)
    assert sets.made_by == {"new": "step 1 of the checkpoint a at width 1"}
    relevant, valid = sets.matching.tile(slice(0, 4))
    for row, name in enumerate("abcd"):
        expected = [["b", "a", "-1", "0000"][i] == name for i in IDS]
        assert relevant[row].tolist() == expected
    assert not valid[:, IDS == 2].any()
    assert "3 junk items left out" in sets.facts
    assert compatibility.compatibility.check_known(sets.matching).tolist() == [i in (0, 1) for i in IDS]
    relevant, valid = open_sets(queries, galleries, junk=("0000",)).matching.tile(slice(0, 4))
    assert not valid[:, IDS == 3].any()
    assert valid[:, IDS == 2].all()
    with pytest.raises(ValueError, match=r"--junk=000: '000' is not the name .*did you mean '0000'"):
        open_sets(queries, galleries, junk=("000",))
    manifest(galleries["new"], ["b", "a", "-1", "0000"], step=2)
    with pytest.raises(ValueError, match=r"'new' has queries of step 1 .* and a gallery of step 2"):
        open_sets(queries, galleries)


def test_lists_in_place_of_identities(models, tmp_path):
    queries, galleries = two(models, "new")
    easy, hard, junk = ([[(row + shift) % 12] for row in range(12)] for shift in range(3))
    gnd = [{"bbx": [0, 0, 1, 1], "easy": e, "hard": h, "junk": j} for e, h, j in zip(easy, hard, junk)]
    names = [str(i) for i in range(12)]
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps({"imlist": names, "qimlist": names, "gnd": gnd}))
    for difficulty, wanted, left_out in (("easy", [0], [1, 2]), ("medium", [0, 1], [2]), ("hard", [1], [0, 2])):
        relevant, valid = open_sets(queries, galleries, truth=str(path), difficulty=difficulty).matching.tile(
            slice(3, 5)
        )
        assert np.flatnonzero(relevant[0]).tolist() == [3 + i for i in wanted]
        assert np.flatnonzero(~valid[1]).tolist() == [4 + i for i in left_out]
    path.write_bytes(pickle.dumps({"imlist": names[1:], "qimlist": names, "gnd": gnd[:-1]}))
    with pytest.raises(ValueError, match="lists 12 queries and 11 answers"):
        open_sets(queries, galleries, truth=str(path))


def test_faces_are_pooled_to_templates(tmp_path):
    z = np.array([[2.0, 0], [0, 2], [0, 6], [5, 5]])
    template, media, labels = np.array([9, 9, 9, 4]), np.array([1, 2, 2, 1]), np.array([1, 1, 1, 0])
    pooled, first = matching.pool_templates(z, template, media)
    # Template 9: the mean of medium 1 and that of medium 2.
    np.testing.assert_allclose(pooled, [[5, 5], [2, 4]])
    assert first.tolist() == [3, 0]
    path = {"m": save(tmp_path / "x", z, labels, None, template=template, media=media)}
    sets = open_sets(path, path)
    np.testing.assert_allclose(sets.queries["m"], pooled)
    assert sets.matching.query_ids.tolist() == [0, 1]
    path = {"m": save(tmp_path / "x", z, labels, labels, template=template, media=media)}
    assert open_sets(path, path).matching.query_cameras is None


def test_pairs_in_place_of_identities(tmp_path):
    rng = np.random.default_rng(0)
    z, templates = rng.normal(size=(9, 4)), np.array([7, 7, 3, 5, 5, 5, 8, 2, 2])
    parts = [slice(0, 3), slice(3, 7), slice(7, 9)]
    folders = [save(tmp_path / str(i), z[p], templates[p], None, template=templates[p]) for i, p in enumerate(parts)]
    queries, gallery = {"m": folders[0]}, {"m": f"{folders[1]}+{folders[2]}"}
    path = tmp_path / "pairs.txt"
    path.write_text("5 7 1\n8 7 0\n2 3 1\n5 3 0\n8 3 0\n")
    sets = open_sets(queries, gallery, pairs=str(path))
    relevant, valid = sets.matching.tile(slice(0, 2))  # queries 3, 7; gallery 2, 5, 8
    assert relevant.tolist() == [[True, False, False], [False, True, False]]
    assert valid.tolist() == [[True, True, True], [False, True, True]]
    pooled = {n: np.sum(z[templates == n], axis=0) for n in np.unique(templates)}
    unit = {n: found / np.linalg.norm(found) for n, found in pooled.items()}
    other = max(unit[g] @ unit[q] for g, q in ((8, 7), (5, 3), (8, 3)))
    expected = np.mean([unit[5] @ unit[7] > other, unit[2] @ unit[3] > other])
    assert measure(sets.queries["m"], sets.galleries["m"], sets.matching, ["tar@0"])["tar@0"] == expected
    assert "5 pairs of" in sets.facts[1]
    for text, message in (
        ("5 7 1\n9 7 0", r"names 9, which is none of 3 of --galleries"),
        ("5 8 1", r"names 8, which is none of 2 of --queries"),
        ("5 7 1\n5 7 0", "lists the pair 5 7 twice"),
        ("5 7 2", "SAME 1 or 0"),
        ("a b c", "is not a list of pairs, lines of GALLERY QUERY SAME"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            open_sets(queries, gallery, pairs=str(path))


def test_folders_joined_must_be_of_one_model(models, tmp_path):
    queries, galleries = two(models, "old", "new")
    both = {name: f"{path}+{path}" for name, path in galleries.items()}
    joined = open_sets(queries, both)
    assert joined.matching.shape == (12, 24)
    np.testing.assert_array_equal(joined.galleries["new"][12:], joined.galleries["new"][:12])
    with pytest.raises(ValueError, match=r"number of folders \(1 and 2\)"):
        open_sets(queries, both | {"new": galleries["new"]})
    short = save(tmp_path / "short", np.ones((12, 3)))
    with pytest.raises(ValueError, match="its folders differ in their size"):
        open_sets(queries, {name: f"{path}+{short}" for name, path in galleries.items()})


def test_a_sample_of_the_queries_is_of_the_same_rows_for_all(models):
    whole, some = open_sets(*models), open_sets(*models, max_queries=5)
    relevant, valid = whole.matching.tile(slice(0, 12))
    rows = [np.flatnonzero((whole.queries["old"] == row).all(axis=1)).item() for row in some.queries["old"]]
    assert rows == sorted(set(rows))
    for name, z in some.queries.items():
        np.testing.assert_array_equal(z, whole.queries[name][rows])
    np.testing.assert_array_equal(some.matching.tile(slice(0, 5)), (relevant[rows], valid[rows]))
    assert "a sample of 5 of the queries" in some.facts
    with pytest.raises(ValueError, match="--max_queries=-1 must be at least 1"):
        open_sets(*models, max_queries=-1)


def test_several_identities_of_a_row():
    ids = matching.Identities(np.array([[1, -1], [2, 3]]), np.array([[3, 1], [-1, -1], [2, -1]]))
    assert ids.tile(slice(0, 2))[0].tolist() == [[True, False, False], [True, False, True]]


def test_scores_in_tiles_are_scores_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    q, g = rng.normal(size=(30, 5)), rng.normal(size=(40, 5))
    ids = matching.Identities(rng.integers(0, 9, 30), rng.integers(0, 6, 40))
    metrics = ("map", "tar@0.01", "tar@0.3", "tar@1", "tpir@0.2")
    whole = measure(q, g, ids, metrics)
    monkeypatch.setattr(compatibility.compatibility, "TILE", 100)
    assert measure(q, g, ids, metrics) == whole


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "names no model"), (["a"], "'a': it is not NAME:FEATURES"), (["a:x", "a:y"], "the name comes twice")],
)
def test_names_of_models(words, message):
    with pytest.raises(ValueError, match=message):
        matched_sets.parse("--queries", words)


def test_what_it_writes(models, tmp_path):
    sets = open_sets(*two(models, "old", "new"))
    found = compatibility.matrices(sets, ("map@100",), (4, 8))
    judged = {str(dim): compatibility.judge(sets, m, "") for dim, m in found["map@100"].items()}
    lines = compatibility.text(sets, found, judged)
    at = lines.index("8 dims, in percent (rows: models of the queries, columns: of the gallery)")
    assert [line.split() for line in lines[at + 1 : at + 3]] == [["map@100"], ["old", "new"]]
    assert lines[at + 4].split() == ["new", *(f"{100 * value:.2f}" for value in found["map@100"][8][1])]
    compatibility.write(tmp_path / "out", sets, found, judged, "")
    record = results.read(tmp_path / "out")["compatibility"]
    assert record["values"]["map@100 new in old@8"] == found["map@100"][8][1, 0]
    assert record["details"]["compatible"]["8"]["pairs"] == 1
    assert {p.name for p in (tmp_path / "out/plots").iterdir()} == {
        "compatibility-map_at_100-4.png",
        "compatibility-map_at_100-8.png",
    }
    page = (tmp_path / "out/report.html").read_text()
    for part in ("percent.map@100.8", "<th>old</th>", "python -m mrl_jax.compatibility", "data:image/png"):
        assert part in page
    assert "Training" not in page
    assert "<th>other</th>" not in page


def test_rows_are_queries_and_columns_galleries_on_the_page(models, tmp_path):
    queries, galleries = models
    sets = open_sets(
        {"old": queries["old"], "new": queries["new"]}, {"new": galleries["new"], "other": galleries["other"]}
    )
    found = compatibility.matrices(sets, ("map",), (8,))
    assert compatibility.judge(sets, found["map"][8], "") is None
    compatibility.write(tmp_path, sets, found, {}, "")
    table = (tmp_path / "report.html").read_text().split("percent.map.8")[1]
    assert "<th>new</th><th>other</th></tr><tr><th>old</th>" in table


@pytest.mark.slow
def test_the_command(models, tmp_path):
    sides = [",".join(f"{name}:{path}" for name, path in side.items()) for side in models]
    flags = [f"--queries={sides[0]}", f"--galleries={sides[1]}", f"--out={tmp_path / 'out'}", "--metrics=map,cmc@1"]
    output = command.finish(command.start("mrl_jax.compatibility", *flags, "--independent=other"))
    assert "12 queries, 12 gallery items; 4 identities asked for; 3 cameras" in output
    assert "new queries beat the old model in its own gallery in 1 of 1 pairs" in output
    assert (tmp_path / "out/report.html").is_file()
    output = command.finish(command.start("mrl_jax.compatibility", *flags, "--independent=x"), expect=1)
    assert "error: --independent=x must be one of both" in output
    output = command.finish(command.start("mrl_jax.compatibility", *flags, "--difficulty=hard"), expect=1)
    assert "error: --difficulty needs --ground_truth, whose lists say what counts" in output
    output = command.finish(command.start("mrl_jax.compatibility", *flags, "--metrics=map,tpir@0.1"), expect=1)
    assert "error: --metrics=map,tpir@0.1: tpir@0.1 cannot be measured" in output
    assert "old in old" not in output
    output = command.finish(command.start("mrl_jax.compatibility", *flags, "--pairs=p", "--junk=3"), expect=1)
    assert "error: --junk cannot go with --pairs, whose lists say what counts" in output
