"""The dependency directions of the package."""

import ast
import collections
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "mrl_jax"
COMMANDS = {
    "compatibility",
    "convert",
    "embed",
    "evaluate",
    "export",
    "prepare",
    "probe",
    "robustness",
    "search",
    "study",
    "tokenizer",
    "train",
    "zero_shot",
}
# What a module may import of the package, by its first path component; a command may import anything but a command.
FOUNDATION = {"nesting", "choices", "trees"}
ALLOWED = {
    "nesting": set(),
    "choices": set(),
    "trees": set(),
    "flops": set(),
    "flips": set(),
    "host_memory": set(),
    "profiling": set(),
    "timing": set(),
    "distributed": set(),
    "checkpoints": {"trees"},
    "writers": set(),
    "weights": FOUNDATION,
    "conversion": FOUNDATION | {"checkpoints", "config", "models", "step", "weights"},
    "commands": {"distributed"},
    "losses": FOUNDATION,
    "models": FOUNDATION,
    "data": FOUNDATION,
    "indexes": FOUNDATION | {"writers"},
    "evals": FOUNDATION | {"indexes", "losses", "timing", "writers"},
    "optim": FOUNDATION,
    "sharding": FOUNDATION,
    "mixing": FOUNDATION,
    "surgery": {"choices"},
    "recalibrate": {"models", "trees"},
    "narrow": FOUNDATION | {"config", "models", "parts", "step"},
    "costs": {"flops", "narrow", "parts", "results", "timing", "trees"},
    "widths": FOUNDATION | {"losses"},
    "switchable": FOUNDATION | {"accumulate", "losses", "objectives", "step", "surgery", "widths"},
    "config": FOUNDATION,
    "objectives": FOUNDATION | {"losses", "sharding"},
    "step": FOUNDATION | {"accumulate", "gradient_cache", "losses"},
    "gradient_cache": {"accumulate"},
    "accumulate": {"sharding"},
    "estimate": {"config", "flops", "parts", "sharding", "trees"},
    "start": {"checkpoints", "config", "inputs", "parts", "step", "warm_start"},
    "warm_start": {"checkpoints", "models", "step", "trees", "weights", "widths"},
    "progress": FOUNDATION,
    "metrics": {"progress", "writers"},
    "results": FOUNDATION | {"writers"},
    "charts": set(),
    "report": {"charts", "config", "results", "writers"},
    "workdir": {"config", "writers"},
    "features_dir": set(),
    "feature_pairs": {"extract", "features_dir", "flips", "nesting", "trained"},
    "matched_sets": FOUNDATION | {"data", "evals", "feature_pairs", "features_dir"},
    "features_writer": {"features_dir", "writers"},
    "trained": {"checkpoints", "choices", "config", "inputs", "parts", "recalibrate", "sharding", "step"},
    "inputs": FOUNDATION | {"data"},
    "extract": FOUNDATION
    | {
        "data",
        "features_dir",
        "features_writer",
        "flips",
        "inputs",
        "parts",
        "progress",
        "sharding",
        "trained",
        "workdir",
    },
    "studies": FOUNDATION
    | {"data", "evals", "feature_pairs", "features_dir", "flips", "models", "policy", "results", "trained"},
    "policy": {"choices", "evals", "writers"},
    "parts": FOUNDATION
    | {"config", "data", "evals", "flips", "inputs", "limits", "mixing", "models", "objectives", "optim", "sharding"}
    | {"step", "surgery", "switchable", "widths"},
    "limits": FOUNDATION | {"config"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def component(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules():
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def test_dependency_directions():
    for path in modules():
        name = component(path)
        known = {component(p) for p in modules()}
        found = {m.split(".")[1] for m in imports(path) if m.startswith("mrl_jax.")} & known - {name}
        if name in COMMANDS:
            assert not found & COMMANDS, path
        else:
            assert found <= ALLOWED[name], f"{path} imports {found - ALLOWED[name]}"


def test_nothing_imports_configs_or_experiments():
    for path in modules():
        assert not any(m.split(".")[0] in ("configs", "experiments", "tests") for m in imports(path)), path


def test_each_outside_library_has_its_one_door():
    doors = {"flax": {"models"}, "orbax": {"checkpoints"}, "grain": {"data"}, "optax": {"optim", "step", "parts"}}
    doors |= {"tensorflow_datasets": {"data"}, "array_record": {"data"}, "matplotlib": {"results"}}
    doors |= {"safetensors": {"weights"}, "faiss": {"indexes"}}
    doors |= {"apache_beam": {"data"}, "pyarrow": {"data"}, "tokenizers": {"data"}}
    for path in modules():
        for module in imports(path):
            top = module.split(".")[0]
            assert component(path) in doors.get(top, {component(path)}), f"{path} imports {top}"


def test_the_loop_knows_no_backbone_loss_or_evaluator():
    for name in ("train.py", "step.py"):
        text = (PACKAGE / name).read_text()
        for word in ("resnet", "vit", "softmax", "knn", "classification", "icons", "image", "tokens", "bert"):
            assert word not in text.lower(), f"{name} names {word}"


def test_tensorflow_is_never_imported():
    code = "import sys, mrl_jax.train, mrl_jax.evaluate, mrl_jax.prepare; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_two_modules_of_the_tests_share_a_name():
    """Pytest puts the folder of every test file on the path: which of two would be imported depends on the order."""
    names = collections.Counter(path.stem for path in (ROOT / "tests").rglob("*.py") if path.stem != "conftest")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_modules_that_tests_import_define_one_flag():
    """All tests share one process or two, in which a flag can be defined once; a required one must be given always."""
    tested = {module for path in (ROOT / "tests").rglob("*.py") for module in imports(path)}
    names = collections.Counter()
    for module in tested:
        path = ROOT / f"{module.replace('.', '/')}.py"
        for node in ast.parse(path.read_text()).body if path.exists() else []:
            call = getattr(node, "value", None)
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "").startswith("DEFINE_"):
                assert not any(keyword.arg == "required" for keyword in call.keywords), f"{path}: {ast.unparse(call)}"
                names[ast.literal_eval(call.args[0])] += 1
    assert [name for name, count in names.items() if count > 1] == []
