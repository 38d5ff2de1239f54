"""Where an enclave's evidence comes from, by the operator's choice.

    simulated-tdx      quotes in Intel's format, the default
    simulated-snp      reports in AMD's
    simulated-nitro    documents in AWS's
    configfs-tsm       of the hardware below this guest, TDX or SEV-SNP

A simulated GPU's report goes with simulated evidence where the operator asks for one,
or where the model runs on a GPU. Evidence of a real GPU is not made here: beside
evidence of hardware a model runs on the CPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.tee.attester import Attester, DeviceAttester
from privacy.tee.composite import Device
from privacy.tee.configfs_tsm import ROOT, ConfigfsTsm, KernelFiles
from privacy.tee.origin import names_simulated

SIMULATED_TDX, SIMULATED_SNP = "simulated-tdx", "simulated-snp"
SIMULATED_NITRO, CONFIGFS_TSM = "simulated-nitro", "configfs-tsm"
KINDS = (SIMULATED_TDX, SIMULATED_SNP, SIMULATED_NITRO, CONFIGFS_TSM)
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class Devices:
    """What vouches for the devices that a model may run on.

    Attributes:
        gpu: None if nothing does.
        always: Show it also where the model runs on the CPU.
    """

    gpu: DeviceAttester | None = None
    always: bool = False

    def shows_gpu(self, providers: Sequence[str]) -> bool:
        """Whether evidence has a GPU's report.

        Args:
            providers: ONNX Runtime's, in use; the preferred one first.
        """
        return self.gpu is not None and (self.always or _CUDA in providers[:1])

    def reports(self, nonce: bytes, providers: Sequence[str]) -> list[Device]:
        """Return the reports for a nonce of 32 bytes."""
        shown = self.gpu if self.shows_gpu(providers) else None
        return [shown.device(nonce)] if shown else []


NO_DEVICES = Devices()


@dataclass(frozen=True, slots=True)
class EvidenceSource:
    """What makes an enclave's evidence.

    Attributes:
        kind: One of `KINDS`.
        simulated_gpu: Add the report of a simulated GPU.
        tsm_root: Where configfs-tsm keeps its entries.
    """

    kind: str = SIMULATED_TDX
    simulated_gpu: bool = False
    tsm_root: Path = ROOT

    def __post_init__(self) -> None:
        """Refuse what is none, or what no verifier would accept."""
        if self.kind not in KINDS:
            msg = f"evidence comes from {' or '.join(KINDS)}, not {self.kind[:40]!r}"
            raise FormatError(msg, code="bad-evidence-source")
        if self.simulated_gpu and not self._is_made_here:
            msg = (
                "a simulated GPU beside evidence of hardware would prove nothing: turn "
                "simulated_gpu off, or choose simulated evidence"
            )
            raise FormatError(msg, code="bad-evidence-source")

    @property
    def _is_made_here(self) -> bool:
        return self.kind != CONFIGFS_TSM

    @property
    def may_use_gpu(self) -> bool:
        """Whether a GPU that computes can be vouched for."""
        return self._is_made_here

    def as_dict(self) -> Json:
        """Return the source JSON-ready."""
        return {
            "kind": self.kind,
            "simulated_gpu": self.simulated_gpu,
            "tsm_root": str(self.tsm_root),
        }

    @classmethod
    def from_dict(cls, value: Json) -> Self:
        """Return the source that `as_dict` gave."""
        return cls(**{**value, "tsm_root": Path(value["tsm_root"])})

    def is_simulated(self) -> bool:
        """Whether the evidence will prove nothing; asks the kernel, if that makes it.

        Raises:
            PrivacyError: The kernel gives no report; see `ConfigfsTsm.report`.
        """
        if self._is_made_here:
            return True
        tsm = ConfigfsTsm(KernelFiles(self.tsm_root))
        return names_simulated(tsm.report(bytes(64)).evidence)

    def open(self) -> Attester:
        """Return the attester, which opens no file any more.

        Raises:
            PrivacyError: Nothing makes evidence of this kind here.
        """
        from privacy.tee.quoter import TsmAttester
        from privacy.tee.simulated_attesters import (
            SimulatedNitroAttester,
            SimulatedSnpAttester,
        )
        from privacy.tee.simulator import SimulatedTdxAttester

        kinds: dict[str, Callable[[], Attester]] = {
            SIMULATED_TDX: SimulatedTdxAttester,
            SIMULATED_SNP: SimulatedSnpAttester,
            SIMULATED_NITRO: SimulatedNitroAttester,
            CONFIGFS_TSM: lambda: TsmAttester(self.tsm_root),
        }
        return kinds[self.kind]()

    def open_devices(self) -> Devices:
        """Return what vouches for devices, which opens no file any more."""
        from privacy.tee.simulated_attesters import SimulatedGpu

        if not self._is_made_here:
            return NO_DEVICES
        return Devices(SimulatedGpu(), always=self.simulated_gpu)


DEFAULT = EvidenceSource()
"""A simulated TDX platform, and a GPU if one is in use."""
