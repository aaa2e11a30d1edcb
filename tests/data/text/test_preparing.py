"""Texts and captions through `prepare`, from every kind of source."""

import io
import json
import tarfile

import numpy as np
import pytest
import raw
import text

from mrl_jax.data import sources
from mrl_jax.data.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return text.trained(tmp_path_factory.mktemp("t") / "tokenizer.json")


def decoded(made, tokens):
    own = Tokenizer(made)
    return own._inner.decode(tokens)


def tar(path, images, captions):
    with tarfile.open(path, "w") as file:
        for i, (image, (ending, caption)) in enumerate(zip(images, captions)):
            for name, data in ((f"{i}.jpg", image.read_bytes()), (f"{i}.{ending}", caption.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path


def test_a_corpus_is_packed_and_its_bytes_repeat(tmp_path, made):
    source, whole = text.corpus(tmp_path / "c.txt"), " ".join(text.sentences(60))
    for name in "ab":
        raw.prepare(source, tmp_path / name, tokenizer=str(made), context=12, pack=True, seed=None)
    assert raw.files(tmp_path / "a") == raw.files(tmp_path / "b")
    found = text.records(tmp_path / "a")
    assert {len(r["tokens"]) for r in found[:-1]} == {12}
    assert decoded(made, [t for r in found for t in r["tokens"]]).replace(" ", "") == whole.replace(" ", "")
    source = sources.load(f"array_record:{tmp_path / 'a'}", "train", data_dir=".")
    assert (source.context, source.vocabulary.size) == (12, Tokenizer(made).vocabulary.size)


def test_empty_texts_are_skipped_and_long_ones_cut_and_both_are_counted(tmp_path, made):
    rows = [{"t": s} for s in ("red house", "  ", "blue tree", "red " * 30)]
    source = text.write_jsonl(tmp_path / "l.jsonl", rows)
    found = raw.prepare(source, tmp_path / "d", tokenizer=str(made), context=8, reader={"text_key": "t"})
    assert found["dropped"]["train"] == {"empty": 1}
    assert found["truncated"] == {"train": 1}
    assert [row["reason"] for row in raw.dropped(tmp_path / "d")] == ["empty"]
    assert [decoded(made, r["tokens"]) for r in text.records(tmp_path / "d")][:2] == ["red house", "blue tree"]
    assert len(text.records(tmp_path / "d")[2]["tokens"]) == 8


def test_captions_of_a_list_of_a_tar_and_of_arrays_give_the_same_records(tmp_path, made):
    captions = ["red house", "blue tree", "small river"]
    folder = raw.folder(tmp_path / "images", 3)
    paths = sorted(folder.rglob("*.jpg"))
    rows = [{"path": str(p), "caption": c} for p, c in zip(paths, captions)]
    listed = text.write_jsonl(tmp_path / "l.jsonl", rows)
    # One caption in a member of its own, the others in a json.
    jsons = [("json", json.dumps({"txt": caption})) for caption in captions]
    tar(tmp_path / "s.tar", paths, [("txt", captions[0]), *jsons[1:]])
    images = np.stack([raw.picture(int(p.stem)) for p in paths])
    np.savez(tmp_path / "a.npz", images=images, labels=np.zeros(3, int), names=np.array(captions))
    options = {"tokenizer": str(made), "context": 8}
    raw.prepare(listed, tmp_path / "1", reader={"image_key": "path", "text_key": "caption"}, **options)
    raw.prepare(tmp_path / "s.tar", tmp_path / "2", reader={"text_key": "txt"}, **options)
    raw.prepare(tmp_path / "a.npz", tmp_path / "3", reader={"text_key": "names"}, **options)
    one, two, three = (text.records(tmp_path / name) for name in "123")
    assert [r["image"] for r in one] == [r["image"] for r in two] == [p.read_bytes() for p in paths]
    tokens = [[r["tokens"] for r in found] for found in (one, two, three)]
    assert tokens[0] == tokens[1] == tokens[2]
    assert [decoded(made, t) for t in tokens[0]] == captions


def test_of_a_dropped_image_neither_an_address_is_noted_nor_its_caption_counted(tmp_path, made):
    (tmp_path / "no.jpg").write_bytes(b"no image")
    rows = [
        {"path": str(p), "t": "red " * 30}
        for p in (*raw.folder(tmp_path / "s", 2).glob("*/*.jpg"), tmp_path / "no.jpg")
    ]
    source = text.write_jsonl(tmp_path / "l.jsonl", rows)
    options = {"tokenizer": str(made), "context": 8, "reader": {"image_key": "path", "text_key": "t"}}
    found = raw.prepare(source, tmp_path / "d", skip_fraction=0.5, **options)
    assert found["truncated"] == {"train": 2}
    assert [row["detail"] for row in raw.dropped(tmp_path / "d")] == ["not an image"]


def test_what_is_no_utf8_is_dropped_and_counted_packed_or_not(tmp_path, made):
    source = tmp_path / "c.txt"
    # The last line is UTF-8, but nothing is left of it: a zero byte.
    source.write_bytes(b"red house\nna\xefve tree\n\nblue tree\n\x00\n")
    for pack in (True, False):
        options = {"tokenizer": str(made), "context": 16, "pack": pack}
        found = raw.prepare(source, tmp_path / f"{pack}", skip_fraction=0.25, **options)
        assert found["dropped"] == {"train": {"empty": 1, "undecodable": 1}}
        assert [row["key"] for row in raw.dropped(tmp_path / f"{pack}")] == [f"{source}:10:11", f"{source}:32:2"]
        tokens = [r["tokens"] for r in text.records(tmp_path / f"{pack}")]
        assert decoded(made, [t for row in tokens for t in row]) == "red house blue tree"
        with pytest.raises(ValueError, match=rf"1 of 4 examples are undecodable .*skip_fraction=0\.2 .*{source}:10:11"):
            raw.prepare(source, tmp_path / f"less {pack}", skip_fraction=0.2, **options)


NO_TEXTS = (["red", "tree"], 7, {"a": "red"}, True, "red \ud83d")  # the last one is half of a surrogate pair


def test_captions_of_a_tar_that_are_no_texts_are_dropped_and_counted(tmp_path, made):
    values = [{"txt": value} for value in ("red  house", None, *NO_TEXTS)] + [["red"], "txt", {"text": "red"}]
    paths = sorted(raw.folder(tmp_path / "images", len(values)).rglob("*.jpg"))
    source = tar(tmp_path / "s.tar", paths, [("json", json.dumps(value)) for value in values])
    options = {"tokenizer": str(made), "context": 8, "reader": {"text_key": "txt"}}
    found = raw.prepare(source, tmp_path / "d", skip_fraction=0.8, **options)
    assert found["dropped"] == {"train": {"empty": 1, "undecodable": 8}}
    assert [decoded(made, r["tokens"]) for r in text.records(tmp_path / "d")] == ["red house"]
    details = [row["detail"] for row in raw.dropped(tmp_path / "d")]
    assert "['red', 'tree'] is no text" in details[1]
    assert 'no object of fields: ["red"]' in details[-3]
    with pytest.raises(ValueError, match=r"8 of 10 examples are undecodable .* \['red', 'tree'\] is no text"):
        raw.prepare(source, tmp_path / "e", skip_fraction=0.7, **options)


def test_values_of_a_list_that_are_no_texts_are_dropped_and_counted(tmp_path, made):
    values = (*NO_TEXTS, None, "blue tree")
    source = text.write_jsonl(tmp_path / "l.jsonl", [{"t": value} for value in values])
    options = {"tokenizer": str(made), "context": 8, "skip_fraction": 0.8}
    found = raw.prepare(source, tmp_path / "d", reader={"text_key": "t"}, **options)
    assert found["dropped"] == {"train": {"empty": 1, "mislabelled": 5}}
    assert raw.dropped(tmp_path / "d")[0]["key"] == "row 1 of l.jsonl"
    assert [decoded(made, r["tokens"]) for r in text.records(tmp_path / "d")] == ["blue tree"]
    # The first row that can be read says how many negatives all have.
    negatives = (["red", 7], ["red", ["blue"]], ["red", None, "blue"], ["tree", "river"])
    source = text.write_jsonl(
        tmp_path / "n.jsonl", [{"q": "red", "p": f"tree {i}", "n": n} for i, n in enumerate(negatives)]
    )
    found = raw.prepare(source, tmp_path / "n", reader={"text_key": "q,p", "negatives_key": "n"}, **options)
    assert found["dropped"] == {"train": {"mislabelled": 2}}
    assert [len(r["negatives"]) for r in text.records(tmp_path / "n")] == [2, 2]


def test_pairs_of_texts_and_their_scores(tmp_path, made):
    rows = [{"a": "red", "b": "red house", "s": 4.25}, {"a": "tree", "b": "river", "s": "0"}]
    source = text.write_jsonl(tmp_path / "l.jsonl", rows)
    options = {"reader": {"text_key": "a,b", "score_key": "s"}, "tokenizer": str(made), "context": 8}
    raw.prepare(source, tmp_path / "d", **options)
    found = text.records(tmp_path / "d")
    assert [r["score"] for r in found] == [4250, 0]
    assert [decoded(made, r["tokens_2"]) for r in found] == ["red house", "river"]


def test_hard_negatives_of_one_column_or_of_several_give_the_same_records(tmp_path, made):
    rows = [("red", "red house", ["river", "small  tree"]), ("tree", "large tree", ["blue", "red " * 30])]
    listed = text.write_jsonl(tmp_path / "l.jsonl", [{"q": q, "p": p, "n": n} for q, p, n in rows])
    table = tmp_path / "t.csv"
    table.write_text("q,p,n1,n2\n" + "".join(f"{q},{p},{a},{b}\n" for q, p, (a, b) in rows))
    options = {"tokenizer": str(made), "context": 8}
    found = raw.prepare(listed, tmp_path / "1", reader={"text_key": "q,p", "negatives_key": "n"}, **options)
    raw.prepare(table, tmp_path / "2", reader={"text_key": "q,p", "negatives_key": "n1,n2"}, **options)
    one, two = (text.records(tmp_path / name) for name in "12")
    assert one == two
    assert [decoded(made, t) for t in one[0]["negatives"]] == ["river", "small tree"]
    assert (found["text"]["negatives"], found["truncated"]) == (2, {"train": 1})
    assert sources.load(f"array_record:{tmp_path / '1'}", "train", data_dir=".").negatives == 2


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        ((["a", "b"], ["a"]), r"row 2 of .*l\.jsonl has 1 negatives, and the rows before it 2: give every row equally"),
        (("a", " "), "row 2 of .* has 0 negatives, and the rows before it 1"),
        ((None, "a"), "row 1 of .* has 0 negatives, and every row must have some"),
    ],
)
def test_rows_of_unequally_many_negatives_are_refused(tmp_path, made, negatives, message):
    listed = text.write_jsonl(tmp_path / "l.jsonl", [{"q": "red", "p": "tree", "n": n} for n in negatives])
    with pytest.raises(ValueError, match=message):
        raw.prepare(listed, tmp_path / "d", tokenizer=str(made), reader={"text_key": "q,p", "negatives_key": "n"})
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "T", "reader": {"text_key": "t", "negatives_key": "t"}}, "--negatives_key=t is for pairs of te"),
        ({"reader": {"text_key": "t"}}, "with text but without --tokenizer"),
        ({"tokenizer": "T", "reader": {"image_key": "t"}}, "with --tokenizer but without --text_key"),
        ({"tokenizer": "T", "reader": {"text_key": "t", "image_key": "t"}, "pack": True}, "--pack lays single texts"),
        ({"tokenizer": "T", "reader": {"text_key": "t"}, "context": 2}, r"--context=2 must be in 3\.\."),
        ({"tokenizer": "T", "reader": {"text_key": "t,u,v"}}, "one column, or two"),
        ({"tokenizer": "T", "reader": {"text_key": "x"}}, r"has no 'x' among \['t'\]; see --text_key$"),
        ({"tokenizer": "T", "reader": {"text_key": "t,t", "score_key": "s"}}, "has no 's' among .*; see --score_key$"),
    ],
)
def test_mistakes_are_named(tmp_path, made, options, message):
    source = text.write_jsonl(tmp_path / "l.jsonl", [{"t": "red"}])
    options = options | ({"tokenizer": str(made)} if "tokenizer" in options else {})
    with pytest.raises(ValueError, match=message):
        raw.prepare(source, tmp_path / "d", **options)


def test_data_of_another_preparation_are_refused(tmp_path, made):
    source = text.corpus(tmp_path / "c.txt")
    raw.prepare(source, tmp_path / "d", tokenizer=str(made), context=12)
    with pytest.raises(ValueError, match="context: 12 there, 10 asked for"):
        raw.prepare(source, tmp_path / "d", tokenizer=str(made), context=10)
    (tmp_path / "d" / "tokenizer.json").write_text((tmp_path / "d" / "tokenizer.json").read_text() + " ")
    with pytest.raises(ValueError, match="is not the tokenizer that"):
        text.records(tmp_path / "d")
