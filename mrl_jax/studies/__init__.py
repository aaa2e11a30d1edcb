"""Studies of a model's features by name: `run(subject, *, options) -> Finding`, the options also flags of `study`."""

from mrl_jax.studies import (
    adaptive,
    answers,
    fewshot,
    gradcam,
    indexes,
    interpolation,
    longtail,
    quantization,
    retrieval,
    robustness,
    spectrum,
    superclass,
)

KINDS = {
    "adaptive": adaptive.run,
    "disagreement": answers.disagreement,
    "fewshot": fewshot.run,
    "gradcam": gradcam.run,
    "indexes": indexes.run,
    "interpolation": interpolation.run,
    "longtail": longtail.run,
    "oracle": answers.oracle,
    "policy": adaptive.policy,
    "quantization": quantization.run,
    "retrieval": retrieval.run,
    "robustness": robustness.run,
    "spectrum": spectrum.run,
    "superclass": superclass.run,
    "trends": answers.trends,
}
