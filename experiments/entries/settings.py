"""The settings that several tables share."""

from experiments.entry import Setting
from experiments.training import IMAGENET

RESNET50 = {"name": "resnet", "variant": "50", "stem": "imagenet", "blurpool": True}
R50 = Setting("ResNet-50 on ImageNet-1K, 40 epochs; 224 px centre crop, no flips at test", IMAGENET, RESNET50)
R50_FLIPS = Setting(
    "ResNet-50 on ImageNet-1K, 40 epochs; logits of each test image and its mirror image added",
    IMAGENET,
    RESNET50,
    views=2,
)
JFT = Setting(
    "ViT-B/16 on JFT-300M; ImageNet-1K training images as database, validation images as queries",
    "array_record:jft",
    {"name": "vit", "variant": "B/16"},
    IMAGENET,
)
ALIGN = Setting(
    "ViT-B/16 and BERT-Base on ALIGN's 1.8 billion pairs; 1-NN of the image tower, likewise",
    "array_record:align",
    {"name": "dual_encoder", "image/name": "vit", "image/variant": "B/16", "text/variant": "Base"},
    IMAGENET,
)
NO_SLIM = (
    "Slim. Net: how the paper made widths of 8 in 2048 of 64 channels is not published; ours is a network whose width "
    "w has w times the channels and features, at the scales that have a channel left."
)


def of_flips(run: str) -> str:
    """The command of the heads' accuracy by the logits of each test image and its mirror image, added."""
    return f"python -m mrl_jax.evaluate --workdir={{runs}}/{run} --evals=classification {{only_flips}}"
