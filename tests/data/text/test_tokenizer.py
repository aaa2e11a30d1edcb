"""Tokenizers: the file is enough, training repeats, mistakes are named."""

import json
import subprocess
import sys

import numpy as np
import pytest
import raw
import text

from mrl_jax import config as configs
from mrl_jax import inputs
from mrl_jax import tokenizer as command
from mrl_jax.data import sources
from mrl_jax.data.text import masking, packing, tokenizer, vocabulary


@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_what_is_read_without_the_library_agrees_with_it(tmp_path, kind):
    one, two = text.trained(tmp_path / "a.json", kind), text.trained(tmp_path / "b.json", kind)
    assert one.read_bytes() == two.read_bytes()
    own, made = vocabulary.read(one), tokenizer.Tokenizer(one)
    pieces = made.pieces("Houses housing, tree")
    assert pieces
    assert max(pieces) < own.size
    words = 1 + (~own.continues[pieces][1:]).sum()
    assert words == (4 if kind == "wordpiece" else 3)  # the comma is a word of its own to BERT, unknown here
    encoded, cut = made.encode("red green blue", 4)
    assert (encoded[0], encoded[-1], len(encoded), cut) == (own.cls, own.sep, 4, True)
    rows, cut = made.batch(["red", "red red red red red"], 6)
    assert (rows[0][-1], rows[1][-1], cut) == (own.pad, own.sep, 1)


def bpe(path, blank):
    """A tokenizer.json of BPE whose words begin with a character."""
    library = tokenizer._library()
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.Metaspace(replacement=blank)
    inner.train_from_iterator(
        text.sentences(60), library.trainers.BpeTrainer(vocab_size=40, special_tokens=list(vocabulary.SPECIAL.values()))
    )
    inner.save(str(path))
    return path


def test_words_that_begin_with_a_blank_of_metaspace_are_masked_whole(tmp_path):
    path = bpe(tmp_path / "t.json", "▁")
    own, words = vocabulary.read(path), "housing river tree"
    tokens, _ = tokenizer.Tokenizer(path).encode(words, 32)
    begins = ~own.continues[tokens] & ~own.special[tokens]
    assert begins.sum() == 3 < len(tokens) - 2
    found = masking.mask(np.array(tokens, np.int32), np.random.default_rng(0), own, rate=0.7, whole_word=True)
    chosen = np.isin(np.arange(len(tokens)), found.positions_S[found.targets_S >= 0])
    whole = [len(set(part)) == 1 for part in np.split(chosen[1:-1], np.flatnonzero(begins)[1:] - 1)]
    assert whole == [True] * 3
    assert 0 < chosen.sum() < len(tokens) - 2


def test_whole_words_are_refused_where_nothing_tells_where_they_begin(tmp_path):
    path = bpe(tmp_path / "t.json", "|")
    raw.prepare(text.corpus(tmp_path / "c.txt"), tmp_path / "d", tokenizer=str(path), context=12, pack=True)
    source = sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".")
    config = configs.default()
    config.data.kind = "masked_text"
    inputs.of(config, source)
    config.data.text.whole_word = True
    with pytest.raises(ValueError, match=r"data\.text\.whole_word=True, and no piece of .* begins a word"):
        inputs.of(config, source)


def test_a_file_that_cuts_and_fills_up_by_itself_does_not(tmp_path):
    path = text.trained(tmp_path / "t.json")
    found = json.loads(path.read_text())
    found["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(found))
    assert len(tokenizer.Tokenizer(path).pieces("red green blue small large")) >= 5


def test_mistakes_are_named(tmp_path):
    path = text.trained(tmp_path / "t.json")
    with pytest.raises(ValueError, match="never overwritten"):
        text.trained(path)
    with pytest.raises(ValueError, match="--size=3 must be at least"):
        tokenizer.train(["a"], tmp_path / "x.json", kind="wordpiece", size=3, lowercase=True)
    with pytest.raises(ValueError, match="holds no text"):
        tokenizer.train([], tmp_path / "x.json", kind="wordpiece", size=50, lowercase=True)
    with pytest.raises(FileNotFoundError, match=r"mrl_jax\.tokenizer"):
        vocabulary.read(tmp_path / "none.json")
    found = json.loads(path.read_text())
    found["added_tokens"] = [t for t in found["added_tokens"] if t["content"] != "[MASK]"]
    del found["model"]["vocab"]["[MASK]"]
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"has no \[MASK\]"):
        vocabulary.read(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        vocabulary.read(path)


@pytest.mark.parametrize(
    ("name", "text_key", "line", "bad"),
    [
        ("c.txt", "", "red house", b"na\xefve"),
        ("c.csv", "t", '"red\nhouse",1', b"na\xefve,1"),
        ("c.jsonl", "t", '{"t": "red"}', b'{"t": "na\xefve"}'),
    ],
)
@pytest.mark.parametrize("before", [1, 9000])
def test_a_corpus_that_is_not_utf8_is_named_with_its_line_and_the_remedy(tmp_path, name, text_key, line, bad, before):
    # The most lines are several blocks of what is decoded at once.
    start = ("t,s\n" if name == "c.csv" else "\n" * (name == "c.txt")) + f"{line}\n" * before
    (tmp_path / name).write_bytes(start.encode() + bad + b"\n")
    corpus = command.Texts(str(tmp_path / name), text_key)
    place = f"line {start.count(chr(10)) + 1} of {tmp_path / name}"
    with pytest.raises(ValueError, match=rf"^{place} is not UTF-8 \(byte 0xef: .*: convert .* by iconv .*, or repair"):
        tokenizer.train(corpus, tmp_path / "t.json", kind="wordpiece", size=50, lowercase=True)
    assert not (tmp_path / "t.json").exists()


def test_a_row_of_no_text_is_named(tmp_path):
    source = text.write_jsonl(tmp_path / "c.jsonl", [{"t": "red"}, {"t": ["red"]}])
    with pytest.raises(ValueError, match=r"^row 2 of c\.jsonl: \['red'\] is no text: repair or remove it"):
        list(command.Texts(str(source), "t"))


def test_training_needs_no_tokenizers_library():
    code = "import sys; sys.modules['tokenizers'] = None; import mrl_jax.train, mrl_jax.evaluate, mrl_jax.prepare"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_packing_loses_nothing_and_fills_every_row():
    rng = np.random.default_rng(0)
    texts = [rng.integers(10, 99, n).tolist() for n in rng.integers(1, 40, 50)]
    rows = list(packing.pack(texts, 16, cls=1, sep=2))
    assert all(len(row) == 16 and row[0] == 1 for row in rows[:-1])
    joined = [token for row in rows for token in row[1:]]
    assert joined == [token for one in texts for token in [*one, 2]]
