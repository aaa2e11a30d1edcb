"""The commands that train the models of the paper's tables, at the paper's scale and at those within reach."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping

from mrl_jax.choices import choose
from mrl_jax.data import corruptions
from mrl_jax.nesting import Nesting

IMAGENET = "tfds:imagenet2012"
SYNTHETIC = "synthetic:size=64,channels=3,classes=8,examples=64"
ABLATIONS = ("8boost", "8+16boost", "uniform", "smallest=4", "smallest=6")
TUNED = ("fc", "conv3", "conv2", "block")
JFT = ("jft_mrl", "jft_mrl_e", "jft_ff")
ALIGN = ("align_mrl", "align_ff")
BERT = ("bert_mrl_e", "bert_ff")


@dataclasses.dataclass(frozen=True)
class Scale:
    """Where the same models are trained.

    Attributes:
      config: of the main runs.
      dims: halving, of the main runs.
      own_configs: whether the configs of ablations, fine-tuning and JFT serve, or the main one with other fields.
      words: what stands for {word} in the commands that measure; None for what this scale does not have.
      suffix: words that every config mode ends in.
      left_out: runs that this scale does not have.
    """

    config: str
    dims: tuple[int, ...]
    own_configs: bool
    words: Mapping[str, str | None]
    suffix: str = ""
    left_out: tuple[str, ...] = ()


# The data set of the tests with its splits; where few shots are drawn from; the shifted sets and the corruptions; the
# superclasses; the sizes of the few-shot and long-tail studies; and mirror images, in commands that do without them and
# in those that are for them alone.
_PAPER = {
    "test": IMAGENET,
    "train_split": "train",
    "test_split": "validation",
    "few": "--dataset=tfds:imagenet_v2 --split=test --data_dir={data}",
    "few_split": "test",
    "shots": "1,3,5,7,9",
    "ways": "10",
    "shifted": "--set=imagenet_v2 --set=imagenet_a --set=imagenet_r --set=imagenet_sketch "
    f"--corruptions={','.join(corruptions.KINDS)}",
    "large": "--dataset=array_record:imagenet4k --split=gallery,query --data_dir={data}",
    "retrieval": "",
    "index_ks": "--ks=2048",
    "shortlists": "100,200,400,800,1600,2048",
    "flips": "--flips",
    "only_flips": "--flips",
    "large_train": "gallery",
    "large_test": "query",
    "hierarchy": "wordnet",
    "tail": "--groups=20,100 --imbalance=100",
    "vit_dims": "12,16,24,32,48,64,96,128,192,256,384,512,768",
    "pairs_dims": "12,16,24,32,48,64,96,128,192,256,384,512,768",
}
_DEBUG = _PAPER | {
    "test": SYNTHETIC,
    "test_split": "test",
    "few": f"--dataset={SYNTHETIC} --split=test",
    "shots": "1,3",
    "ways": "4",
    "retrieval": "--ks=10,25 --shortlist=20",
    "index_ks": "--ks=20",
    "shortlists": "10,20,40",
    "large": f"--dataset={SYNTHETIC} --split=train,test",
    "large_train": "train",
    "large_test": "test",
    "shifted": f"--set={SYNTHETIC}@train --corruptions=contrast --severities=5",
    "hierarchy": "experiments/reference/debug_superclasses.json",
    "tail": "--groups=2,5 --imbalance=4",
    "vit_dims": "12,16,24,32,48,64,96,128,192",
    "pairs_dims": "4,8,12,16,24,32",
}
_OWN = _PAPER | {"shifted": "", "index_ks": "--ks=100", "test_split": "val", "few": "--split=val", "few_split": "val"}
_OWN |= dict.fromkeys(("large", "large_train", "large_test", "only_flips")) | {"flips": ""}
_TINY = _OWN | {"test": "array_record:tiny"}
_ICONS = _OWN | {"test": "icons", "test_split": "test", "few": "--split=test", "few_split": "test", "shots": "1"}
_ICONS |= {"tail": "--groups=5,10 --imbalance=10", "hierarchy": None, "shortlists": "100,200,400,800"}
_R50, _R18 = "configs/imagenet_resnet50.py", "configs/tiny_imagenet_resnet18.py"
_SMALL = JFT + ALIGN + BERT + TUNED[1:]
SCALES = {
    # A ResNet-50 has 64 channels at first: its share of 8 in 2048 is none of them.
    "paper": Scale(_R50, Nesting.halving(2048, 8).dims, True, _PAPER, left_out=("slimmable",)),
    "debug": Scale(_R50, Nesting.halving(2048, 8).dims, True, _DEBUG, ",debug", left_out=("slimmable",)),
    "tiny": Scale(_R18, Nesting.halving(512, 8).dims, False, _TINY, left_out=_SMALL),
    "tiny_cpu": Scale(_R18, Nesting.halving(256, 8).dims, False, _TINY, ",small", left_out=_SMALL),
    "icons": Scale("configs/quickstart.py", Nesting.halving(256, 8).dims, False, _ICONS, left_out=_SMALL),
}


def commands(run: str, scale: Scale, words: Mapping[str, str], seed: int = 0) -> list[str]:
    """The command lines that train a run; none where this scale does not have it.

    Args:
      run: "mrl", "mrl_e", "slimmable", "ff" (one for every dim but the full one), "ff_full", an ablation, what is
        fine-tuned, a run on JFT or on ALIGN's pairs, or of BERT: "bert_mrl_e", "bert_ff" (one for every dim).
      scale: one of SCALES.
      words: as `words` gives them.
      seed: of the runs.

    Raises:
      ValueError: for another name.
    """
    choose("run", run, ("mrl", "mrl_e", "slimmable", "ff", "ff_full", *ABLATIONS, *TUNED, *JFT, *ALIGN, *BERT))
    if run in scale.left_out:
        return []
    if run == "ff":  # ff_full is the last of them, under a name of its own
        return [_line(f"ff{m}", scale.config, f"ff={m}", (), scale, words, seed) for m in scale.dims[:-1]]
    if run == "bert_ff":
        dims = (4, 8, 32) if "debug" in scale.suffix else Nesting.halving(768, 12).dims
        return [_line(f"bert_ff{m}", "configs/bert_mlm.py", f"ff={m}", (), scale, words, seed) for m in dims]
    return [_line(run, *_config(run, scale, words), scale, words, seed)]


def words(scale: Scale, runs: str, data: str) -> dict[str, str]:
    """What stands for {word} in the commands of a table."""
    found = {"runs": runs, "data": data, "full": str(scale.dims[-1]), "dims": ",".join(map(str, scale.dims))}
    shown = dict.fromkeys((*Nesting.halving(256, 8).dims, scale.dims[-1]))  # of the ablation's table, and the full dim
    found["halving_to_256"] = ",".join(map(str, shown))
    return found | {name: word.format(data=data) for name, word in scale.words.items() if word is not None}


def _config(run: str, scale: Scale, words: Mapping[str, str]) -> tuple[str, str, tuple[str, ...]]:
    """The config's file, its mode and further arguments."""
    tuned = (f"--config.init.path={words['runs']}/ff_full",)
    if run in ("mrl", "mrl_e", "slimmable"):
        # The quickstart weighs its dims; the paper's models do not.
        return scale.config, run, () if scale.own_configs else (_weights((1.0,) * len(scale.dims)),)
    if run == "ff_full":
        return scale.config, f"ff={scale.dims[-1]}", ()
    if run in JFT:
        mode = run.removeprefix("jft_")
        full = 192 if "debug" in scale.suffix else 768  # the smallest ViT stands in
        return "configs/jft_vit_b16.py", f"ff={full}" if mode == "ff" else mode, ()
    if run in ALIGN:
        full = 32 if "debug" in scale.suffix else 768
        return "configs/align_b16_bert.py", "mrl" if run == "align_mrl" else f"ff={full}", ()
    if run == "bert_mrl_e":
        return "configs/bert_mlm.py", "mrl_e", ()
    if scale.own_configs:
        family = "ablations" if run in ABLATIONS else "finetune"
        return scale.config.replace(".py", f"_{family}.py"), run, tuned if run in TUNED else ()
    if run in TUNED:
        own = ("--config.init.skip=^head/", "--config.optim.freeze=^backbone/")
        return scale.config, "mrl", (*tuned, *own, _weights((1.0,) * len(scale.dims)))
    return scale.config, "mrl", tuple(_ablated(run, scale.dims))


def _ablated(run: str, dims: tuple[int, ...]) -> Iterator[str]:
    """The fields of an ablation, at dims other than the paper's."""
    if run in ("8boost", "8+16boost"):
        first = (2.0,) if run == "8boost" else (2.0, 1.5)
        yield _weights(first + (1.0,) * (len(dims) - len(first)))
        return
    if run == "uniform":
        span = dims[-1] - dims[0]
        # The paper has one step more than it has halving dims.
        steps = min((n for n in range(2, span) if span % n == 0), key=lambda n: abs(n - len(dims) - 1))
        own = tuple(range(dims[0], dims[-1] + 1, span // steps))
    else:
        own = (int(run.partition("=")[2]), *dims)
    yield f"--config.nesting.dims={own!r}"
    yield _weights((1.0,) * len(own))


def _weights(weights: tuple[float, ...]) -> str:
    return f"--config.nesting.weights={weights!r}"


def _line(
    name: str,
    config: str,
    mode: str,
    extra: tuple[str, ...],
    scale: Scale,
    words: Mapping[str, str],
    seed: int,
) -> str:
    seeded = (f"--config.seed={seed}",) if seed else ()
    arguments = [f"--config={config}:{mode}{scale.suffix}", f"--workdir={words['runs']}/{name}"]
    arguments.append(f"--config.data.dir={words['data']}")
    return shlex.join(["python", "-m", "mrl_jax.train", *arguments, *extra, *seeded])
