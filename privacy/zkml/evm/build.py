"""Make a model's verifier contracts on this machine, from its public files.

Plan:
    1. Refuse an SRS that is not the public ceremony's, unless that is allowed.
    2. In a child process without network: EZKL writes both verifiers and the artifact;
       with the proving key at hand, one row is proven.
    3. Compile them here.
    4. On a local EVM: deploy, register, check the proof; see that a changed one fails.
    5. Choose, and write everything with digests, sizes and gas.

EZKL's terms for what it generates are unclear: do not publish these files.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from privacy.bundle import Bundle
from privacy.child import Child, Handler, Progress
from privacy.encoding import Json, sha256_hex
from privacy.errors import (
    AppraisalError,
    BackendError,
    CannotVerifyError,
    FormatError,
)
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.zkml.blobs import Proof
from privacy.zkml.evm.calldata import parse_vka, vka_digest
from privacy.zkml.evm.facts import (
    MAX_RUNTIME_BYTES,
    EvmFacts,
    VerifierFacts,
    write_facts,
)
from privacy.zkml.evm.local import (
    LocalEvm,
    Reverted,
    check_plain,
    check_reusable,
    register,
)
from privacy.zkml.evm.solc import Compiled, compile_sources, solc_version
from privacy.zkml.field import MODULUS, from_hex
from privacy.zkml.params import parse_params
from privacy.zkml.prove import prove_row
from privacy.zkml.srs import check_verifier_srs, is_public
from privacy.zkml.system import CircuitFiles, load_backend

_TIMEOUT_S = 900.0
_NO_NETWORK = {
    name: "http://127.0.0.1:9"
    for base in ("http_proxy", "https_proxy", "all_proxy")
    for name in (base, base.upper())
}
"""EZKL would fetch a compiler: this leads it nowhere."""

KINDS = ("plain", "reusable")


@dataclass(frozen=True, slots=True)
class _Made:
    """What the engine wrote: sources by kind, the artifact, and maybe a proof."""

    sources: dict[str, str]
    vka: list[bytes]
    vka_raw: bytes
    proof: Proof | None


def build_verifier(
    bundle: Bundle,
    out: Path,
    *,
    progress: Progress,
    kind: str = "",
    allow_insecure_srs: bool = False,
) -> EvmFacts:
    """Write a model's verifier contracts into a folder, and return what they are.

    The files: `plain.sol`, `plain.bin`, `reusable.sol`, `reusable.bin` (init code, raw
    bytes), `vka.bin` (as EZKL writes it) and `evm.json`.

    Args:
        bundle: The model; its public zkml files suffice. Gas is measured only where the
            proving key is there too.
        out: The folder.
        progress: Told how far it is.
        kind: `plain` or `reusable`; chosen by size if empty.
        allow_insecure_srs: Make contracts that the SRS's maker can deceive.

    Raises:
        NotFoundError: The model does not offer zkml.
        UnavailableError: No compiler, no engine, or the extra `chain` is missing.
        BackendError: The engine or the compiler failed, or a contract is at fault.
        FormatError: `kind` is neither, or the plain contract is too long to deploy.
        AppraisalError: The SRS is not the public ceremony's; code `insecure-srs`.
        VerificationError: A file was changed, or the SRS is one under which any proof
            holds.
    """
    bundle.manifest.mode(Mode.ZKML)
    if kind not in {"", *KINDS}:
        raise FormatError(f"the kind is {kind[:20]!r}, expected plain or reusable")
    names = [n for n in bundle.manifest.files if n.startswith("zkml/")]
    secret = {n for n in names if not bundle.manifest.files[n].public}
    bundle.check_files([n for n in names if n not in secret or bundle.path(n).exists()])
    insecure = _is_insecure(bundle, allowed=allow_insecure_srs)  # 1
    compiler = solc_version()
    made = _generate(bundle, progress)  # 2
    progress({"stage": "compile"})
    compiled = {k: _compile(made.sources[k]) for k in KINDS}  # 3
    progress({"stage": "measure gas"})
    facts = _facts(  # 4
        bundle, made, compiled, kind=kind, compiler=compiler, insecure_srs=insecure
    )
    for name in KINDS:  # 5
        write_atomic(out / f"{name}.sol", made.sources[name].encode())
        write_atomic(out / f"{name}.bin", compiled[name].init_code)
    write_atomic(out / "vka.bin", made.vka_raw)
    write_facts(out, facts)
    return facts


def _is_insecure(bundle: Bundle, *, allowed: bool) -> bool:
    """Return whether the SRS is another one than the public ceremony's, if allowed.

    Its own bytes say so, which become part of the contracts.
    """
    cut = CircuitFiles(bundle.root / "zkml").verifier_srs.read_bytes()
    check_verifier_srs(cut)
    if is_public(cut):
        return False
    if not allowed:
        msg = (
            "the model's SRS is not a public ceremony's: its maker can forge proofs "
            "that these contracts accept. Have it published with --srs, or accept that "
            "you trust the publisher with allow_insecure_srs (--allow-insecure-srs)"
        )
        raise AppraisalError(msg, code="insecure-srs")
    return True


def _generate(bundle: Bundle, progress: Progress) -> _Made:
    root = bundle.root / "zkml"
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    files = CircuitFiles(root)
    row = None
    if files.proving_key.is_file() and files.srs.is_file():
        low, high = params.input_minimum, params.input_maximum
        middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
        row = params.circuit_rows([middle], bytes(32))[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = {
            "root": str(root),
            "out": scratch,
            "row": row,
            "scale_bits": params.input_scale_bits,
        }
        with Child("privacy.zkml.evm.build:handler", env=_NO_NETWORK) as child:
            answer = child.call(job, timeout_s=_TIMEOUT_S, progress=progress)
        raw = (folder / "vka.bin").read_bytes()
        sources = {k: (folder / f"{k}.sol").read_text() for k in KINDS}
    proof = answer["proof"] and Proof(
        tuple(from_hex(f, what="an instance") for f in answer["proof"]["instances"]),
        bytes.fromhex(answer["proof"]["proof"]),
    )
    return _Made(sources, parse_vka(raw), raw, proof or None)


def handler() -> Handler:
    """Return what the child serves; see `_generate`."""
    from privacy.zkml.backends.ezkl_evm import write_verifier, write_vka

    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        files, out = CircuitFiles(Path(request["root"])), Path(request["out"])
        progress({"stage": "write Solidity"})
        write_verifier(files, out / "plain.sol", reusable=False)
        write_verifier(files, out / "reusable.sol", reusable=True)
        write_vka(files, out / "vka.bin")
        proof = None
        if request["row"] is not None:
            progress({"stage": "prove"})
            made = prove_row(
                backend, files, request["row"], scale_bits=request["scale_bits"]
            )
            proof = made.to_json()
        return {"proof": proof}

    return serve


def _compile(source: str) -> Compiled:
    made = compile_sources({"verifier.sol": source})
    if len(made) != 1:
        raise BackendError("EZKL's file holds another number of contracts than one")
    return next(iter(made.values()))


def _facts(
    bundle: Bundle,
    made: _Made,
    compiled: dict[str, Compiled],
    *,
    kind: str,
    compiler: str,
    insecure_srs: bool,
) -> EvmFacts:
    fits = len(compiled["plain"].runtime) <= MAX_RUNTIME_BYTES
    if kind == "plain" and not fits:
        msg = (
            f"the plain verifier has {len(compiled['plain'].runtime)} bytes, at most "
            f"{MAX_RUNTIME_BYTES} can be deployed: choose the reusable one"
        )
        raise FormatError(msg, code="contract-too-large")
    register_gas, reusable = _measure_reusable(made, compiled["reusable"])
    return EvmFacts(
        model_sha256=bundle.sha256,
        compiler=compiler,
        chosen=kind or ("plain" if fits else "reusable"),
        plain=_measure_plain(made, compiled["plain"], fits=fits),
        reusable=reusable,
        vka_digest=vka_digest(made.vka).hex(),
        vka_words=len(made.vka),
        register_gas=register_gas,
        insecure_srs=insecure_srs,
    )


def _measure_plain(made: _Made, plain: Compiled, *, fits: bool) -> VerifierFacts:
    deploy_gas = verify_gas = 0
    if fits:
        evm = LocalEvm()
        address, deploy_gas = evm.deploy(plain.init_code)
        if made.proof:
            verify_gas = check_plain(evm, address, made.proof)
            for bad in changed(made.proof):
                _must_refuse(partial(check_plain, evm, address, bad))
    return _verifier_facts(made.sources["plain"], plain, deploy_gas, verify_gas)


def _measure_reusable(made: _Made, reusable: Compiled) -> tuple[int, VerifierFacts]:
    evm = LocalEvm()
    address, deploy_gas = evm.deploy(reusable.init_code)
    register_gas = register(evm, address, made.vka)
    verify_gas = 0
    if made.proof:
        verify_gas = check_reusable(evm, address, made.proof, made.vka)
        for bad in changed(made.proof):
            _must_refuse(partial(check_reusable, evm, address, bad, made.vka))
    source = made.sources["reusable"]
    return register_gas, _verifier_facts(source, reusable, deploy_gas, verify_gas)


def changed(proof: Proof) -> list[Proof]:
    """Return proofs that must not hold: a flipped bit, an instance changed by one."""
    flipped = bytearray(proof.proof)
    flipped[len(flipped) // 2] ^= 1
    last = (proof.instances[-1] + 1) % MODULUS
    return [
        Proof(proof.instances, bytes(flipped)),
        Proof((*proof.instances[:-1], last), proof.proof),
    ]


def _must_refuse(check: Callable[[], int]) -> None:
    try:
        check()
    except Reverted:
        return
    msg = "the verifier contract accepts a changed proof: do not use it"
    raise CannotVerifyError(msg, code="verifier-unsound")


def _verifier_facts(
    source: str, compiled: Compiled, deploy_gas: int, verify_gas: int
) -> VerifierFacts:
    return VerifierFacts(
        source_sha256=sha256_hex(source.encode()),
        init_code_sha256=sha256_hex(compiled.init_code),
        code_hash=vka_digest([compiled.runtime]).hex(),
        runtime_bytes=len(compiled.runtime),
        deploy_gas=deploy_gas,
        verify_gas=verify_gas,
    )
