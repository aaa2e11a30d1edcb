"""Zero-shot classification of any set of images by a model of images and texts: its classes are told by name alone.

python -m mrl_jax.zero_shot --workdir=runs/align --dataset=tfds:imagenet2012 --split=validation --names=imagenet.txt \\
    --template='a photo of a {}' --template='a drawing of a {}' --data_dir=DIR
python -m mrl_jax.zero_shot --workdir=runs/icons --dataset=array_record:photos --ops='decode(3)|resize_small(32)'

A class is the mean of the normalised embeddings of its prompts, at every dim by itself; top-1 and top-5 accuracy among
the classes that the split shows. The images' features are computed once, and kept below WORKDIR/features. Writes
results/zero_shot_DATASET.json, a plot and the report.
"""

import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from mrl_jax import commands, parts, report, results, trained
from mrl_jax.choices import whole_numbers
from mrl_jax.data import sources
from mrl_jax.evals import zero_shot as evaluator
from mrl_jax.evals.features import dims_of
from mrl_jax.feature_pairs import folder_name, kept
from mrl_jax.nesting import Nesting


def read_names(file: str | None, source: sources.Source) -> list[str]:
    """The names of the classes, of a file with one on each line or of the data themselves.

    Raises:
      ValueError: where there are none, or not as many as classes.
      FileNotFoundError: for a file that is not there.
    """
    if not file:
        if source.label_names is None:
            raise ValueError(f"--dataset={source.name} has no names of classes: give --names=FILE, one on each line")
        return list(source.label_names)
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(f"--names={file} is not there: it is to have the name of a class on each line")
    names = pathlib.Path(file).read_text(encoding="utf-8").splitlines()
    filled = sum(bool(name.strip()) for name in names)
    if not len(names) == filled == source.num_classes:
        raise ValueError(
            f"--names={file} has {filled} names on {len(names)} lines, and --dataset={source.name} has "
            f"{source.num_classes} classes: give one name on each line, in the order of the labels"
        )
    return names


def prompts(
    path: pathlib.Path, step: int, config: Any, names: Sequence[str], templates: Sequence[str]
) -> tuple[np.ndarray, int]:
    """The embeddings (C, P, D) of the prompts by the text tower, in the token ids of its training; and how many were
    cut for it.

    Raises:
      ValueError: for two names that have the same token ids.
    """
    run = trained.assemble(path, step, config)
    with jax.set_mesh(run.mesh):
        store = parts.feature_store(run, parts.make_embed(run), trained.variables(path, step, run))
        return evaluator.embed_names(store, names, templates)


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    path, templates = pathlib.Path(options.workdir), options.template or ["{}"]
    evaluator.check_templates("--template", templates)
    step = trained.choose_step(path, options.step)
    results.check(path)
    config = trained.config_of(path, step, data_dir=options.data_dir)
    training = trained.config_of(path, step, data_dir=options.train_data_dir)
    if config.data.kind != "image_text":
        raise ValueError(f"--workdir={path}: data.kind={config.data.kind!r}, not 'image_text': it has not read names")
    nesting = Nesting(tuple(config.nesting.dims))
    dims = dims_of(nesting, whole_numbers("--dims", options.dims))
    own = options.dataset or config.data.name, options.split or config.data.eval_split
    source = sources.load(*own, data_dir=config.data.dir)
    if source.num_classes < 2 or source.max_labels > 1:
        raise ValueError(
            f"--dataset={source.name} has {source.num_classes} classes and up to {source.max_labels} labels an image: "
            "two classes or more and one label are needed"
        )
    names = read_names(options.names, source)
    name = folder_name(f"zero_shot_{source.name}-{source.split}" + (f"-{options.ops}" if options.ops else ""))
    found = kept(path, step, trained.over(config, *own, options.ops, None), name)
    classes, label_N = np.unique(found.labels, return_inverse=True)
    z_CxPxD, cut = prompts(path, step, training, [names[c] for c in classes], templates)
    values = {name: dict(evaluator.accuracies(np.asarray(found.z, np.float32), label_N, z_CxPxD, dims))}
    print(results.table(values, nesting, step))
    about = {"rows": len(label_N), "classes": len(classes), "templates": templates, "names": names, "cut": cut}
    command = shlex.join(["python", "-m", "mrl_jax.zero_shot", *sys.argv[1:]])
    more = {"step": step, "nesting": nesting, "head": config.head, "details": {name: about}}
    results.write(path, values, command=command, **more)
    results.plot(path / "plots" / f"{name}.png", values, nesting)
    report.refresh(path)
    print(f"Wrote {path}/results/{name}.json and {path}/plots/{name}.png")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run of images and texts.")
    flags.DEFINE_integer("step", None, "Which checkpoint; by default the newest intact one.")
    flags.DEFINE_string("dataset", None, "A name as config.data.name takes it; by default the run's own.")
    flags.DEFINE_string("split", None, "Of that data set; by default the run's eval split.")
    flags.DEFINE_multi_string("template", [], "A prompt with {} for the name of the class; several times for several.")
    flags.DEFINE_string("names", None, "A file with a class's name on each line; by default the data set's.")
    flags.DEFINE_string("ops", None, "The transform of the images; by default the run's data.eval_ops.")
    flags.DEFINE_list("dims", [], "Dims to evaluate, trained or not; by default the trained ones and some between.")
    flags.DEFINE_string("data_dir", None, "Where the images lie, if not where training read its data.")
    flags.DEFINE_string("train_data_dir", None, "Where the data of the training lie now, if they were moved.")
    flags.mark_flag_as_required("workdir")
    commands.run(main)
