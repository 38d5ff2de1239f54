"""Which processor a circuit is compiled for, and what a GPU here lacks."""

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
    missing = missing_gpu()
    if missing and device == "cuda":
        msg = f"{missing}, or choose device cpu"
        raise UnavailableError(msg, code="fhe-no-gpu")
    return not missing


def missing_gpu() -> str:
    """Return why circuits for a GPU cannot be compiled or run here, "" if they can."""
    from concrete import compiler

    if not compiler.check_gpu_enabled():
        return "this build of Concrete has no GPU support: install its GPU wheel"
    if not compiler.check_gpu_available():
        return "Concrete finds no GPU here: check its driver"
    return ""
