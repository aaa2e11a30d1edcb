"""Weights of other programs into ours and back, read as data: no code of a file ever runs."""

from mrl_jax.conversion import big_vision_vit, hf_bert, hf_vit, torch_resnet

# Each has `fits(names) -> bool` and `read(state, request) -> Converted`.
FORMATS = {"torchvision": torch_resnet, "hf_vit": hf_vit, "hf_bert": hf_bert, "big_vision": big_vision_vit}
