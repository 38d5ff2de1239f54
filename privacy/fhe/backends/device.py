"""Which processor a circuit is compiled for."""

from privacy.errors import UnavailableError


def uses_gpu(device: str) -> bool:
    """Return whether to compile for a GPU.

    Args:
        device: `cpu`; `cuda`; or `auto`, a GPU where this Concrete can use one.

    Raises:
        UnavailableError: `cuda`, but Concrete was built without it or finds no GPU.
    """
    if device == "cpu":
        return False
    from concrete import compiler

    if not compiler.check_gpu_enabled():
        missing = "this build of Concrete has no GPU support: install its GPU wheel"
    elif not compiler.check_gpu_available():
        missing = "Concrete finds no GPU here: check its driver"
    else:
        return True
    if device == "cuda":
        msg = f"{missing}, or choose device cpu"
        raise UnavailableError(msg, code="fhe-no-gpu")
    return False
