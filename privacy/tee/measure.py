"""What the enclave is made of, as the five registers of a trust domain.

    mrtd     how it is launched, its own source files, and the interpreter
    rtmr0    the sandbox policy
    rtmr1    versions and files of the packages it runs on
    rtmr2    the model file
    rtmr3    zeros at the start; see `privacy.tee.runtime_log`

The publisher measures once, for the manifest; the enclave measures itself again from
what it loaded. In simulation that is honest bookkeeping, no more: a process that
measures itself can lie.
"""

import dis
import functools
import hashlib
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import CodeType

import privacy
from privacy.bundle import MANIFEST, parse_manifest
from privacy.encoding import Json, canonical_json, sha256_file
from privacy.errors import UnavailableError
from privacy.modes import Mode
from privacy.tee.harden import SANDBOX
from privacy.tee.interpreter import interpreter
from privacy.tee.parse import REGISTER_BYTES, Measurements
from privacy.tee.process import INTERPRETER
from privacy.tee.sealed_model import SEALED_MODEL
from privacy.tee.wire import MODEL

ENTRY = "privacy.tee.enclave"
PACKAGES = (
    ("numpy",),
    ("onnxruntime", "onnxruntime-gpu"),
    ("cryptography",),
    ("cffi",),
    ("rfc8785",),
)
"""Packages the enclave loads; of each, names it may be installed under."""

_ROOT = Path(privacy.__file__).parent


@dataclass(frozen=True, slots=True)
class Program:
    """What an enclave is, beside its model.

    Attributes:
        entry: The module that its process runs.
        others: Modules that it runs in further processes, or imports by name.
        packages: Those it loads; of each, names it may be installed under.
        policy: Its sandbox.
    """

    entry: str = ENTRY
    others: tuple[str, ...] = ()
    packages: tuple[tuple[str, ...], ...] = PACKAGES
    policy: Json = field(default_factory=lambda: SANDBOX)


TEE = Program()
"""The program of mode tee."""


def measure(model_path: Path, program: Program = TEE) -> Measurements:
    """Return the measurements an enclave with this model file will have here."""
    return measure_loaded(model_path.read_bytes(), program)


def measure_folder(model_dir: Path, program: Program = TEE) -> Measurements:
    """Return the measurements an enclave with a bundle's model will have here.

    Of a sealed model, what the manifest says: only the enclave can measure it.

    Args:
        model_dir: The folder of the mode in a bundle, or just one with a model file.
        program: What runs in the enclave.

    Raises:
        FormatError: The model is sealed, and its manifest says no such thing.
        OSError: There is no model.
    """
    if not (model_dir / SEALED_MODEL).is_file():
        return measure(model_dir / MODEL, program)
    part = parse_manifest((model_dir.parent / MANIFEST).read_bytes()).mode(Mode.TEE)
    published = Measurements.from_dict(part.params.get("measurements", {}))
    return replace(measure_unloaded(program), rtmr2=published.rtmr2)


def measure_unloaded(program: Program = TEE) -> Measurements:
    """Return the measurements of an enclave that has no model yet."""
    return replace(measure_loaded(b"", program), rtmr2=bytes(REGISTER_BYTES))


def measure_loaded(model: bytes, program: Program = TEE) -> Measurements:
    """Return the measurements of an enclave that loaded these model bytes.

    Raises:
        UnavailableError: A package the enclave runs on is not installed.
    """
    found = sources(program)
    return Measurements(
        mrtd=_digest(
            {
                "python": interpreter(),
                "launch": [*INTERPRETER[1:], "-m", program.entry],
                "sources": {name: sha256_file(p) for name, p in found.items()},
            }
        ),
        rtmr0=measure_policy(program.policy),
        rtmr1=_packages(program.packages),
        rtmr2=hashlib.sha384(model).digest(),
        rtmr3=bytes(REGISTER_BYTES),
    )


def measure_policy(policy: Json) -> bytes:
    """Return RTMR0 of a process that a sandbox policy was applied to."""
    return _digest(policy)


def search_path(program: Program = TEE) -> list[Path]:
    """Return the folders that hold this project and the packages it runs on."""
    installed = [Path(str(_distribution(n).locate_file(""))) for n in program.packages]
    return list(dict.fromkeys([_ROOT.parent, *installed]))


def sources(program: Program = TEE) -> dict[str, Path]:
    """Return this project's source files that the enclave may load, by module name.

    Found by following import statements from the modules that the program names,
    those inside functions too.
    """
    found: dict[str, Path] = {}
    waiting = [program.entry, *program.others]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += [*_parents(name), *_imports(path.read_bytes())]
    return dict(sorted(found.items()))


def _source(name: str) -> Path | None:
    """Return the file of a module of this project, None if it is no module."""
    top, *rest = name.split(".")
    if top != privacy.__name__:
        return None
    base = _ROOT.joinpath(*rest)
    options = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in options if path.is_file()), None)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


@functools.lru_cache(maxsize=1024)
def _imports(source: bytes) -> tuple[str, ...]:
    # From compiled code: `ast` in several threads fails at random in Python 3.11.
    codes = [compile(source, "source", "exec", dont_inherit=True)]
    found = []
    for code in codes:
        module = ""
        for step in dis.get_instructions(code):
            if step.opname == "IMPORT_NAME":
                module = str(step.argval)
                found.append(module)
            elif step.opname == "IMPORT_FROM":
                found.append(f"{module}.{step.argval}")
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return tuple(found)


@functools.cache
def _packages(packages: tuple[tuple[str, ...], ...]) -> bytes:
    """Return RTMR1, from the files themselves and not from what RECORD says of them.

    Left out, so that installers agree: a package's metadata, scripts outside the
    package, which name the interpreter's path, and compiled files.
    """
    measured = {}
    for names in packages:
        distribution = _distribution(names)
        files = {
            file.as_posix(): sha256_file(Path(str(file.locate())))
            for file in distribution.files or ()
            if file.hash
            and ".." not in file.parts
            and not file.parts[0].endswith(".dist-info")
            and Path(str(file.locate())).is_file()
        }
        measured[names[0]] = {"version": distribution.version, "files": files}
    return _digest(measured)


def _distribution(names: tuple[str, ...]) -> metadata.Distribution:
    for name in names:
        try:
            return metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
    msg = f"the enclave needs {names[0]}: install privacy-compute[tee]"
    raise UnavailableError(msg, code="engine-missing")


def _digest(value: object) -> bytes:
    return hashlib.sha384(canonical_json(value)).digest()
