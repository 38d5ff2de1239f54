"""Whether evidence names a simulated vendor, before anything is verified. Pure.

It decides which trust store to look into, and what an enclave says of itself. Evidence
that names the wrong one is refused by the store it is then verified with.
"""

from privacy.tee.chain import load_certificate, names
from privacy.tee.detect import Item, detect
from privacy.tee.nitro import parse_nitro_document
from privacy.tee.parse import parse_quote
from privacy.tee.snp import parse_snp_report
from privacy.tee.trust import simulated_trust_store


def names_simulated(raw: bytes) -> bool:
    """Whether the CPU's evidence in a file names a simulated vendor's root.

    Raises:
        FormatError: It is no evidence.
    """
    item, *_ = detect(raw)
    store = simulated_trust_store()
    match item.kind:
        case "dcap":
            return parse_quote(item.raw).certificates[-1] == store.intel
        case "nitro":
            return parse_nitro_document(item.raw).certificates[-1] == store.aws
        case "nvidia":
            return store.nvidia in item.certificates
        case "snp":
            return _is_under_simulated_amd(item)


def format_of(raw: bytes) -> str:
    """Return the format of the CPU's evidence in a file, as claims name it.

    Raises:
        FormatError: It is no evidence of a CPU.
    """
    item, *_ = detect(raw)
    match item.kind:
        case "dcap":
            return parse_quote(item.raw).format
        case "snp":
            return f"snp-v{parse_snp_report(item.raw).version}"
        case kind:
            return kind


def report_data_of(raw: bytes) -> bytes:
    """Return what the CPU's evidence in a file is over.

    Raises:
        FormatError: It is no evidence with such a field.
    """
    item, *_ = detect(raw)
    if item.kind == "snp":
        return parse_snp_report(item.raw).report_data
    return parse_quote(item.raw).report.report_data


def _is_under_simulated_amd(item: Item) -> bool:
    subjects = {
        load_certificate(ca, "CA").subject
        for product in simulated_trust_store().amd
        for ca in (product.ask, product.asvk)
    }
    named = [names(load_certificate(raw, "certificate")) for raw in item.certificates]
    return any(one and one[1] in subjects for one in named)
