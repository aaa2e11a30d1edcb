"""The paper's tables: every published number has a source, every command is ours, no difference that means nothing."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import tiny

from experiments import measured, printing, published, recognise, tables, training
from experiments.entries import TABLES
from experiments.entry import Column, Ours, Published, Setting, Table, dims
from mrl_jax import config as configs
from mrl_jax import feature_pairs, results, writers
from mrl_jax.features_dir import open_features
from mrl_jax.nesting import Nesting
from mrl_jax.studies import KINDS
from mrl_jax.studies.subject import Subject

TOP1 = Published("Table 1 / Fig 2", "top1_%", "MRL")
KNN = Column("MRL", "top-1 %", TOP1, Ours("mrl", "knn", dims("top1")))
# What tables read of each study, with options that make it write all of that of few rows; the file is of `studied`.
STUDIES = {
    "adaptive": {"splits": 2},
    "fewshot": {"ways": 0, "trials": 2},
    "indexes": {"efforts": (16,), "ks": (20,)},
    "longtail": {"imbalance": 100.0, "groups": (20, 60), "classifiers": ("nearest_mean",)},
    "oracle": {},
    "retrieval": {"shortlists": (200, 400)},
    "superclass": {"hierarchy": "groups.json"},
}
# The same studies of other features or options.
NAMED = {"fewshot_ten_ways": "fewshot"} | dict.fromkeys(("retrieval_4k", "retrieval_svd", "retrieval_pca"), "retrieval")
READ = [
    (name, place)
    for name, table in TABLES.items()
    for place, column in enumerate(table.columns)
    if column.ours and column.ours.evaluator in {*STUDIES, *NAMED}
]


def run(path, values=None, evaluator="knn", details=None, **overrides):
    """The folder of a run with these results."""
    config = tiny.config(**overrides)
    writers.write_json(path / "config.json", configs.to_json(config))
    nesting = Nesting(tuple(config.nesting.dims))
    found = {evaluator: values or {"top1@8": 0.5}}
    results.write(
        path, found, step=1, nesting=nesting, head="mrl", command="x", details=details and {evaluator: details}
    )
    return measured.load(str(path))


def table(column, setting):
    return Table("Table 0", setting, "dim", (column,), ("mrl",), ())


def matching(loaded):
    """The setting that a run is of."""
    return Setting("ours", loaded.config["data"]["name"], {"name": "vit", "variant": "mu/8"})


@pytest.mark.parametrize("name", TABLES)
def test_every_column_that_names_published_numbers_has_them_with_a_source(name):
    filled = printing.fill(TABLES[name], [])
    assert filled or name == "table30"
    for each in filled:
        assert all(number.source for number in each.published.values())
        assert all(each.difference(row) is None for row in each.rows)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A nested run with what the studies find in random features: for the funnels of 2048 dims, else of few."""
    path = tmp_path_factory.mktemp("studied")
    rng = np.random.default_rng(0)
    for name, rows in (("train", 960), ("test", 96)):
        np.save(path / f"{name}.npy", rng.normal(size=(rows, 2048)).astype(np.float32))
        np.save(path / f"{name}_labels.npy", np.arange(rows) % 8)
    train, test = (open_features(path / f"{n}.npy", path / f"{n}_labels.npy") for n in ("train", "test"))
    wide = feature_pairs.pair(train, test._replace(z=test.z[:8], labels=test.labels[:8]))
    narrow = feature_pairs.pair(*(x._replace(z=x.z[:, :64]) for x in (train, test)))
    (path / "groups.json").write_text(json.dumps({str(c): "abc"[c % 3] for c in range(6)}))
    found = {}
    for kind, options in STUDIES.items():
        pair = wide if kind in ("retrieval", "indexes") else narrow
        own = options | ({"hierarchy": str(path / "groups.json")} if "hierarchy" in options else {})
        finding = KINDS[kind](Subject(pair, pair.nesting.dims, 0, "ridge", None, None, path), **own)
        found[kind] = {"values": finding.values, "details": json.loads(json.dumps(finding.details))}
    found |= {name: found[kind] for name, kind in NAMED.items()}
    return measured.Run(str(path), configs.to_json(tiny.config()), found)


@pytest.mark.parametrize(("name", "place"), READ)
def test_what_a_column_reads_is_what_the_study_writes(studied, name, place):
    column = TABLES[name].columns[place]
    found = measured.column([studied], dataclasses.replace(column.ours, run="mrl"))  # one run stands for all
    assert found
    assert not column.published or found.keys() & published.column(column.published).keys()


def test_tables_of_dims_print_what_is_published_of_them():
    """Of tables that are published whole, every number stands in a column."""
    with open(published.PATH, newline="", encoding="utf-8") as file:
        whole = (
            "Table 1 / Fig 2",
            "Table 2 / Fig 3",
            "Table 4 / Fig 4",
            "Table 5 / Fig 5",
            "Table 7",
            "Table 8 / Fig 7",
        )
        expected = {(x["table"], x["method"]) for x in csv.DictReader(file) if x["table"] in whole}
    shown = {c.published for table in TABLES.values() for c in table.columns if c.published}
    assert expected <= {(p.table, p.method) for p in shown}


def test_texts_fill_the_columns_of_their_head(tmp_path):
    loaded = [
        run(tmp_path / "mrl_e", {"top1@8": 0.5}, "masked_lm", head="mrl_e"),
        run(tmp_path / "ff8", {"top1@8": 0.6, "top1@16": 0.7}, "masked_lm", head="ff", nesting__dims=(8,)),
    ]
    nested, single = (measured.column(loaded, column.ours) for column in TABLES["table7"].columns)
    assert {row: value.mean for row, value in nested.items()} == {"8": 50}
    assert {row: value.mean for row, value in single.items()} == {"8": 60}


def test_every_column_has_ours():
    assert all(column.ours for table in TABLES.values() for column in table.columns)


def test_runs_are_told_by_their_configs():
    def fits(**overrides):
        config = configs.to_json(tiny.config(**overrides))
        return {name for name, is_one in recognise.RUNS.items() if is_one(config)}

    assert fits(nesting__dims=(8, 16, 32)) == {"mrl", "equal"}
    assert fits(nesting__dims=(8, 16, 32), nesting__weights=(2.0, 1.0, 1.0)) == {"mrl", "8boost"}
    assert fits(nesting__dims=(8, 16, 32), nesting__weights=(2.0, 1.5, 1.0)) == {"mrl", "8+16boost"}
    assert fits() == {"mrl", "smallest=4"}
    assert fits(nesting__dims=(8, 20, 32)) == {"mrl", "uniform"}
    assert fits(head="mrl_e") == {"mrl_e"}
    assert fits(head="ff", nesting__dims=(8,)) == {"ff"}
    width = recognise.full_dim(configs.to_json(tiny.config()))
    assert fits(head="ff", nesting__dims=(width,)) == {"ff", "ff_full"}
    assert fits(init__path="x", optim__freeze="^backbone/") == {"fc"}
    towers = configs.dual_encoder(configs.vit("mu/8"), configs.bert("mu"))
    assert fits(head="none", model=towers) == {"pairs"}
    assert fits(head="ff", model=towers, nesting__dims=(8,)) == {"ff"}
    assert fits(head="ff", model=towers, nesting__dims=(width,)) == {"ff", "pairs_ff_full"}
    assert fits(head="none", model=towers, optim__freeze="^image/") == set()  # its images are a classifier's
    assert fits(head="ff", model=configs.bert("mu"), nesting__dims=(width,)) == {"ff"}


def test_images_of_pairs_fill_columns_of_their_own_and_compare_with_their_own_setting(tmp_path):
    own = {"data__name": "array_record:align", "head": "none", "evaluator": "imagenet_knn"}
    details = {"test": {"dataset": {"name": training.IMAGENET}}}
    towers = configs.dual_encoder(configs.vit("B/16"), configs.bert("Base"))
    values = {"knn_top1@16": 0.5, "knn_top1@12": 0.75, "random_features_knn_top1@12": 0.25}
    whole = {"head": "ff", "nesting__dims": (768,)}
    loaded = [
        run(tmp_path / "mrl", values, details=details, model=towers, **own),
        run(tmp_path / "ff", values, details=details, model=towers, **own | whole),
        run(tmp_path / "jft", values, evaluator="imagenet_knn", details=details, model=configs.vit("B/16"), **whole),
    ]
    filled = printing.fill(TABLES["table4"], loaded)
    found = {each.column.name: (each.ours["12"].mean, each.difference("12")) for each in filled if "12" in each.ours}
    assert found == {
        "ALIGN-MRL": (75, pytest.approx(75 - 43.57)),
        "ALIGN (random features)": (25, pytest.approx(25 - 11.90)),
        "JFT-ViT (random features)": (25, None),  # the data have another name
    }
    (between,) = [each for each in filled if each.column.name == "ALIGN-MRL, between"]
    assert between.difference("16") == pytest.approx(50 - 49.06)
    shown = printing.text(TABLES["table4"], filled)
    assert shown.count("published: ") == 2
    assert "ours: dual_encoder of vit B/16 and bert Base on array_record:align" in shown
    other = configs.dual_encoder(configs.vit("S/16"), configs.bert("Base"))
    loaded = [run(tmp_path / "small", values, details=details, model=other, **own)]
    reasons = [each.reasons for each in printing.fill(TABLES["table4"], loaded) if each.ours]
    assert reasons == [("model.image.variant is 'S/16', not 'B/16'",)] * 2


def test_a_difference_needs_the_papers_model_and_data(tmp_path):
    loaded = run(tmp_path, {"top1@8": 0.5, "top1@9": 0.25})
    setting = matching(loaded)
    (same,) = printing.fill(table(KNN, setting), [loaded])
    assert same.difference("8") == pytest.approx(50 - 66.63)
    assert same.difference("9") is None
    for other, reason in (
        (Setting("x", "tfds:imagenet2012", setting.model), "the data are 'synthetic"),
        (Setting("x", setting.dataset, {"variant": "B/16"}), "model.variant is 'mu/8', not 'B/16'"),
        (Setting("x", setting.dataset, {"blurpool": True}), "model.blurpool is None, not True"),
        (Setting("x", setting.dataset, setting.model, "tfds:imagenet_v2"), "it was tested on 'synthetic"),
        (dataclasses.replace(setting, views=2), "add the logits of 2 views of each test image, ours are of 1"),
    ):
        (filled,) = printing.fill(table(KNN, other), [loaded])
        assert all(filled.difference(row) is None for row in filled.rows)
        assert reason in "".join(filled.reasons)
        shown = printing.text(table(KNN, other), [filled])
        assert "No differences" in shown
        assert f"ours: vit mu/8 on {setting.dataset}" in shown
        assert not any("-16.63" in line for line in shown.splitlines())


@pytest.mark.parametrize(("below", "comparable"), [(467, True), (490, False), (None, False)])
def test_superclasses_are_compared_where_as_many_classes_have_one(tmp_path, below, comparable):
    details = {"superclasses": 31} | ({"classes_below_a_superclass": below} if below else {})
    loaded = run(tmp_path, {"mapped@8": 0.5}, "superclass", details | {"test": {"dataset": {"name": "x"}}})
    own = TABLES["table25"]
    loaded.config["data"]["name"] = "x"
    setting = dataclasses.replace(own.setting, dataset="x", model={})
    filled = printing.fill(dataclasses.replace(own, setting=setting), [loaded])
    assert (filled[0].difference("8") is not None) == comparable
    shown = printing.text(own, filled)
    assert (f"classes_below_a_superclass is {below!r}, not 467" in shown) != comparable


def test_superclasses_tell_how_many_classes_have_one(studied):
    details = studied.results["superclass"]["details"]
    assert (details["superclasses"], details["classes_below_a_superclass"]) == (4, 6)  # a, b, c, and the two others


def test_numbers_with_flips_are_of_two_views():
    """The two ways to evaluate differ by as much as the models do."""
    with open(published.PATH, newline="", encoding="utf-8") as file:
        said = {(x["table"], x["metric"], x["method"]): x["setting"].lower() for x in csv.DictReader(file)}
    for table in TABLES.values():
        of = [said[p.table, p.metric, p.method] for p in (column.published for column in table.columns) if p]
        views = {1 if "no tta" in text else 2 for text in of if "tta" in text} or {table.setting.views}
        assert views == {table.setting.views}, table.title
    assert {name for name, table in TABLES.items() if table.setting.views == 2} == {"table3", "table17", "table22"}


def test_of_results_of_one_and_of_two_views_a_table_takes_its_own(tmp_path):
    run(tmp_path, {"top1@8": 0.5})
    results.write(
        tmp_path, {"knn_flips": {"top1@8": 0.75}}, step=1, nesting=Nesting((8,)), head="mrl", command="x", views=2
    )
    loaded = measured.load(str(tmp_path))
    for views, value in ((1, 50), (2, 75)):
        setting = dataclasses.replace(matching(loaded), views=views)
        (filled,) = printing.fill(table(KNN, setting), [loaded])
        assert filled.ours["8"].mean == value
        assert filled.difference("8") == pytest.approx(value - 66.63)


def test_a_column_of_widths_is_filled_from_a_file_of_each(tmp_path):
    (column,) = (c for c in TABLES["table8"].columns if c.name == "Slim. Net")
    lines = [line.split() for line in tables.lines(TABLES["table8"], "tiny_cpu", "R", "D", 0) if "R/slimmable" in line]
    widths = [float(word[8:]) for line in lines for word in line if word.startswith("--width=")]
    assert widths == [m / 256 for m in (8, 16, 32, 64, 128)]
    names = [word[7:] for line in lines for word in line if word.startswith("--name=")]
    values = {name: int(name.rpartition("w")[2]) / 1000 for name in names}
    about = {"test": {"dataset": {"name": "tfds:another"}}}  # of one file
    for name, value in {"retrieval": 0.9, **values}.items():
        own = about if name == "retrieval_w8" else {"test": {"dataset": {"name": "synthetic"}}}
        loaded = run(tmp_path, {f"map_paper@10@{1000 * value:.0f}": value}, name, own, head="mrl_e")
    loaded.config["model"] |= {"embedding": "scaled", "widths": [0.5, 1.0]}
    found = measured.column([loaded], column.ours)
    assert {row: value.mean for row, value in found.items()} == {
        str(m): pytest.approx(m / 10) for m in (8, 16, 32, 64, 128, 256)
    }
    assert "tested on 'tfds:another'" in "".join(
        measured.differs(loaded, column.ours.evaluator, TABLES["table8"].setting)
    )


def test_features_of_another_set_are_named_by_their_manifest(tmp_path):
    loaded = run(tmp_path, details={"test": {"dataset": {"name": "tfds:imagenet_v2"}}})
    assert measured.tested_on(loaded, "knn") == "tfds:imagenet_v2"
    assert measured.tested_on(run(tmp_path / "b", details={"test": {}}), "knn") == "unnamed features"


def test_seeds_are_averaged_and_nothing_else_is(tmp_path):
    loaded = [run(tmp_path / str(s), {"top1@8": 0.5 + 0.1 * s}, seed=s) for s in range(3)]
    (filled,) = printing.fill(table(KNN, matching(loaded[0])), loaded)
    assert filled.ours["8"].mean == pytest.approx(60)
    assert filled.ours["8"].std == pytest.approx(10)
    shown = printing.markdown(table(KNN, matching(loaded[0])), [filled])
    assert f"seed 0, 1, 2 [{', '.join(found.path for found in loaded)}]" in shown
    with pytest.raises(ValueError, match="runs of the same seed"):
        printing.fill(table(KNN, matching(loaded[0])), [loaded[0], loaded[0]])
    other = run(tmp_path / "other", optim__lr=0.5)
    with pytest.raises(ValueError, match=r"differ in \['optim.lr'\]"):
        printing.fill(table(KNN, matching(loaded[0])), [*loaded, other])


def test_a_fixed_feature_run_counts_at_its_own_dim_only(tmp_path):
    loaded = [
        run(tmp_path / str(m), {"top1@8": 0.1 + m / 100, "top1@16": 0.7}, head="ff", nesting__dims=(m,))
        for m in (8, 16)
    ]
    found = measured.column(loaded, Ours("ff", "knn", dims("top1")))
    assert {row: value.mean for row, value in found.items()} == {"8": pytest.approx(18), "16": pytest.approx(70)}


def test_numbers_among_the_details_are_found_by_path(tmp_path):
    details = {"caps": [16, 32], "expected_dim": {"final": {"mean": [9.5, 12.0]}}, "oracle": 0.75}
    loaded = [run(tmp_path, evaluator="adaptive", details=details)]
    curve = Ours("mrl", "adaptive", row="max={dim}", scale=1.0, details="expected_dim/final/mean", of="caps")
    assert {r: v.mean for r, v in measured.column(loaded, curve).items()} == {"max=16": 9.5, "max=32": 12.0}
    assert measured.column(loaded, Ours("mrl", "adaptive", row="all", details="oracle"))["all"].mean == 75
    assert measured.column(loaded, Ours("mrl", "adaptive", row="all", details="missing/x")) == {}


def test_json_and_markdown_say_the_same(tmp_path):
    loaded = run(tmp_path)
    own = table(KNN, matching(loaded))
    filled = printing.fill(own, [loaded])
    record = printing.record("table0", own, filled)
    assert record["columns"][0]["rows"][0]["difference"] == pytest.approx(50 - 66.63)
    assert record["ours"][0]["dataset"] == loaded.config["data"]["name"]
    assert "| 8 | 66.63 | 50.00 | -16.63 |" in printing.markdown(own, filled)


def test_mistakes_in_names_are_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config"):
        measured.load(str(tmp_path))
    with pytest.raises(ValueError, match="has no numbers of"):
        published.column(Published("Table 1 / Fig 2", "top1_%", "MLR"))
    with pytest.raises(ValueError, match="two numbers"):
        published.column(Published("Table 26", "top1_%", "MRL-finetune"))


def test_a_pattern_finds_the_runs_among_folders(tmp_path):
    for name in ("b", "a"):
        run(tmp_path / name, {"top1@8": 0.5})
    (tmp_path / "data").mkdir()
    assert tables.folders(f"{tmp_path}/*") == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert tables.folders("nothing*") == ["nothing*"]
