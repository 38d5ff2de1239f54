"""Can a native circuit run here, and do both sides speak the same Concrete?

Concrete's compiler makes code for the very processor it runs on: LLVM gets the host's
name and every feature it has. Elsewhere such a library may end in SIGILL. So a bundle
names the features of the machine that compiled it, and a node without one of them
refuses it before loading.
"""

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from privacy.encoding import Json
from privacy.errors import UnavailableError
from privacy.fhe.backends.device import missing_gpu

PACKAGE = "concrete-python"
_X86 = re.compile(
    r"sse\w*|ssse3|pni|avx\w*|amx\w*|fma|f16c|bmi[12]|popcnt|abm|movbe|adx|gfni|"
    r"aes|vaes|pclmulqdq|vpclmulqdq|sha_ni|movdir\w*"
)
"""What a compiler can make use of, among all that Linux lists."""


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the features of this machine's processor that compiled code may use."""
    found = re.search(r"(?m)^(flags|Features)\s*:\s*(.*)$", cpuinfo.read_text())
    if not found:
        return []
    names = set(found[2].split())
    is_x86 = found[1] == "flags"
    return sorted(n for n in names if not is_x86 or _X86.fullmatch(n))


def machine_params() -> Json:
    """Return what a manifest says of the machine and the engine that compiled."""
    return {
        "machine": platform.machine(),
        "cpu_features": cpu_features(),
        "versions": {PACKAGE: version(PACKAGE)},
    }


def check_machine(params: Json) -> None:
    """Refuse a circuit that this machine cannot run.

    Args:
        params: The manifest's params of mode `fhe`.

    Raises:
        UnavailableError: Another architecture, or the processor lacks a feature; or
            the circuit is for a GPU (`fhe-no-gpu`), and this Concrete can use none.
    """
    machine, here = params.get("machine"), platform.machine()
    todo = "build it anew for this machine with `privacy fhe rebuild BUNDLE`"
    if machine != here:
        msg = f"the circuit was compiled for {machine}, this node is {here}: {todo}"
        raise UnavailableError(msg, code="fhe-other-machine")
    missing = sorted(set(params.get("cpu_features", ["?"])) - set(cpu_features()))
    if missing:
        msg = (
            f"the circuit was compiled for a processor with {', '.join(missing[:8])}, "
            f"which this node's lacks: {todo}"
        )
        raise UnavailableError(msg, code="fhe-other-machine")
    if params.get("device") == "cuda" and (why := missing_gpu()):
        msg = (
            f"the circuit was compiled for a GPU. {why}, or have the model "
            "published with device cpu"
        )
        raise UnavailableError(msg, code="fhe-no-gpu")


def check_engine(params: Json) -> None:
    """Refuse a circuit made by a Concrete that may not speak with the one here.

    What Concrete writes may change with its minor version.

    Raises:
        UnavailableError: It is of another version, or not installed.
    """
    made_by = str(params.get("versions", {}).get(PACKAGE))
    try:
        here = version(PACKAGE)
    except PackageNotFoundError as exc:
        msg = f"{PACKAGE} is not installed: pip install 'privacy-compute[fhe]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    if made_by.split(".")[:2] != here.split(".")[:2]:
        msg = (
            f"the circuit was made by {PACKAGE} {made_by}, {here} is installed here: "
            "install that version, or have the model published with this one"
        )
        raise UnavailableError(msg, code="fhe-engine-version")
