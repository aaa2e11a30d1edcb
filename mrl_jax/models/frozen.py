"""BatchNorm of modules that are not trained: it normalises by its running statistics, which stay as they are."""

import contextlib
import re
from typing import Any

import flax.linen as nn


def frozen_norms(pattern: str, suffix: str = "") -> contextlib.AbstractContextManager:
    """A context in which every BatchNorm whose parameters the regular expression finds, all of them, is not trained.

    Their modules are stored under their names and `suffix`.
    """
    if not pattern:
        return contextlib.nullcontext()

    def intercept(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == "__call__":
            path = "/".join(module.path) + suffix
            if all(re.search(pattern, f"{path}/{leaf}") for leaf in ("scale", "bias")):
                kwargs = {**kwargs, "use_running_average": True}
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)
