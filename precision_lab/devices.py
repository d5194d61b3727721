"""Which device work runs on: asked for by name, refused where it is not there, named in results."""

from __future__ import annotations

import os

from .errors import InputError

VARIABLE = "PRECISION_LAB_DEVICE"  # how `precision-lab run --device` tells its worker processes


def checked(name: str) -> str:
    """ "cpu" or "cuda". InputError for another name, and for CUDA where torch sees no such device."""
    if name not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}", "cpu or cuda", "choose one")
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                "device cuda", "a CUDA device that torch sees", "leave --device out, or look at: doctor"
            )
    return name


def of_run() -> str:
    """The device that this run was asked for; cpu, if for none."""
    return checked(os.environ.get(VARIABLE, "cpu"))


def described(name: str) -> str:
    """What stands in a manifest: the kind and the model of the device."""
    if name == "cuda":
        import torch

        return f"cuda, {torch.cuda.get_device_name()}"
    from .provenance import processor

    return f"cpu, {processor()}"
