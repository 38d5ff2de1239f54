"""Has a request answered: by a proof, by an enclave, or by both about one answer.

The input was handed over, in the watcher's folder or at the gateway, or comes from the
chain where the model shows it. An enclave is given it sealed: by who asked, so that
this node never sees it, or here, after the enclave's evidence was verified.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gateway.chain.jobs import Jobs
from gateway.chain.state import Known
from privacy.bundle import Bundle
from privacy.chain.config import ChainConfig, ServedModel
from privacy.chain.contracts import OnChain
from privacy.chain.enclaves import recoverable
from privacy.chain.inputs import Input, check_input, input_on_chain, seal_to_enclave
from privacy.chain.models import (
    ATTESTATION,
    PROOF,
    answer_of,
    input_path,
    public_input_of,
)
from privacy.encoding import Json
from privacy.errors import BackendError, NotFoundError
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.onchain import Question
from privacy.tee.contract import parse_answer, with_order
from privacy.zkml.blobs import Proof, parse_evidence
from privacy.zkml.params import parse_params

Bundles = Callable[[ServedModel], Bundle]

_NONCE_BYTES = 32


class Answers:
    """The answers of one coordinator's requests, made at a gateway."""

    def __init__(
        self,
        config: ChainConfig,
        coordinator: OnChain,
        *,
        jobs: Jobs,
        bundles: Bundles,
        folder: Path,
    ) -> None:
        """Keep what is needed; `folder` is the watcher's."""
        self._config, self._coordinator = config, coordinator
        self._jobs, self._bundles, self._folder = jobs, bundles, folder
        self._chain = f"{config.chain_id}:{coordinator.address.lower()}"

    def make(
        self, known: Known, request: Json, *, block: int
    ) -> tuple[object, ...] | None:
        """Return what to deliver, or None while it is being made.

        Args:
            known: The request; its jobs are noted there.
            request: As the coordinator describes it.
            block: The newest one that is believed.

        Raises:
            NotFoundError: Something has yet to be handed over, or vouched for.
            PrivacyError: It went wrong; another attempt may go better.
        """
        served = self._config.models[request["modelId"].hex()]
        bundle = self._bundles(served)
        question = self._question(known.id, request)
        given = self._given(served, bundle, request, question, block)
        proof, wants = Proof((), b""), request["evidence"]
        if wants != ATTESTATION:
            made = self._prove(known, served, bundle, question, given)
            if made is None:
                return None
            if wants == PROOF:
                return answer_of(made, served)
            proof = made
        sealed = self._sealed(known, request, served, bundle, question, given)
        blob = with_order(sealed, question, proven=proof.instances)
        output = self._ask(known, served, blob, Mode.TEE, question)
        if output is None:
            return None
        answer = parse_answer(output)
        signature = recoverable(
            self._coordinator.rpc,
            self._config,
            question,
            answer,
            proven=bool(proof.instances),
        )
        proof = Proof(answer.instances, proof.proof)
        return answer_of(proof, served, signature=signature)

    def forget(self, request_id: int) -> None:
        """Remove what was kept of a request that has ended."""
        for path in self._folder.glob(f"sealed/{self._stem(request_id)}-*"):
            path.unlink(missing_ok=True)

    def _question(self, request_id: int, request: Json) -> Question:
        return Question(
            chain_id=self._config.chain_id,
            coordinator=bytes.fromhex(self._coordinator.address[2:]),
            request_id=request_id,
            model_id=request["modelId"],
            commitment=request["inputCommitment"],
        )

    def _given(
        self,
        served: ServedModel,
        bundle: Bundle,
        request: Json,
        question: Question,
        block: int,
    ) -> Input | None:
        """Return the input in the clear, if this node was given it."""
        if request["publicInput"]:
            published = public_input_of(
                self._coordinator, question.request_id, newest=block
            )
            found = input_on_chain(bundle, published)
            if found.commitment != question.commitment:
                raise BackendError("the chain's node gave another request's input")
            return found
        raw = self._handed_over(served, question.commitment, sealed=False)
        if raw is None:
            return None
        return check_input(bundle, raw, question.commitment)

    def _handed_over(
        self, served: ServedModel, commitment: bytes, *, sealed: bool
    ) -> bytes | None:
        """Return an input from the watcher's folder, or from the gateway."""
        path = input_path(self._folder, commitment, sealed=sealed)
        if path.is_file():
            return path.read_bytes()
        return self._jobs.find_input(served, commitment, sealed=sealed)

    def _prove(
        self,
        known: Known,
        served: ServedModel,
        bundle: Bundle,
        question: Question,
        given: Input | None,
    ) -> Proof | None:
        if given is None:
            raise _missing()
        evidence = self._ask(known, served, given.blob, Mode.ZKML, question)
        if evidence is None:
            return None
        params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
        (proof,) = parse_evidence(
            evidence,
            instances=len(params.instances),
            proof_bytes=params.proof_bytes,
        ).proofs
        if proof.instances[: len(given.described)] != given.described:
            msg = "the proof is about another input than the one handed over"
            raise BackendError(msg, code="wrong-input")
        return proof

    def _sealed(
        self,
        known: Known,
        request: Json,
        served: ServedModel,
        bundle: Bundle,
        question: Question,
        given: Input | None,
    ) -> bytes:
        """Return the sealed input: the requester's, or ours, one an attempt.

        Ours is named by the commitment, too: after a reorganisation, or at another
        coordinator in the same folder, the number is another request's.
        """
        theirs = self._handed_over(served, question.commitment, sealed=True)
        if theirs is not None:
            return theirs
        if given is None:
            raise _missing()
        about = question.commitment.hex()[:32]
        name = f"{self._stem(known.id)}-{about}-{known.attempts}"
        path = self._folder / "sealed" / name
        if not path.is_file():
            nonce = secrets.token_bytes(_NONCE_BYTES)
            sealed = seal_to_enclave(
                bundle,
                given,
                self._jobs.attest(served, nonce),
                nonce=nonce,
                config=self._config,
                now=datetime.now(UTC),
                allow_simulated=request["allowSimulated"],
            )
            write_atomic(path, sealed, private=True)
        return path.read_bytes()

    def _ask(
        self,
        known: Known,
        served: ServedModel,
        blob: bytes,
        mode: Mode,
        question: Question,
    ) -> bytes | None:
        """Return what a job gave; its name holds all that makes it another job."""
        key = (
            f"{self._chain}:{known.id}:{question.model_id.hex()[:16]}:"
            f"{question.commitment.hex()[:32]}:{known.attempts}:{mode}"
        )
        job, found = self._jobs.ask(
            served, blob, mode=mode, key=key, options=question.as_dict()
        )
        known.jobs[str(mode)] = job
        return found

    def _stem(self, request_id: int) -> str:
        place = self._coordinator.address.lower()[2:18]
        return f"{self._config.chain_id}-{place}-{request_id}"


def _missing() -> NotFoundError:
    msg = "the input of this commitment was not handed over"
    return NotFoundError(msg, code="input-missing")
