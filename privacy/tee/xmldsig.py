"""XML with one enveloped signature, as NVIDIA's reference measurements come. Pure.

Only what such documents need: elements, attributes, text, comments. Document types,
and with them entities, processing instructions and attributes of the `xml` prefix are
refused, which makes Canonical XML 1.0 and 1.1 the same. There is exactly one signature,
the last child of the root; it covers all the rest of the document, so nothing can be
wrapped around what is signed.

Source: W3C Canonical XML 1.1; XML Signature Syntax and Processing 1.1.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from privacy.errors import FormatError, VerificationError

DSIG = "http://www.w3.org/2000/09/xmldsig#"
_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
_CANONICAL = {
    "http://www.w3.org/2006/12/xml-c14n11",
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
}
_MAX_DEPTH, _MAX_ELEMENTS, _MAX_NAMESPACES = 16, 20_000, 32

Scope = dict[str, str]


@dataclass(slots=True)
class Element:
    """An element, names as written; `scope` gives the namespaces of prefixes in it."""

    name: str
    attributes: dict[str, str]
    scope: Scope
    children: list["Element | str"] = field(default_factory=list)

    @property
    def elements(self) -> Iterator["Element"]:
        """The elements right below."""
        return (child for child in self.children if isinstance(child, Element))

    @property
    def text(self) -> str:
        """The text right below."""
        return "".join(child for child in self.children if isinstance(child, str))

    @property
    def qualified(self) -> tuple[str, str]:
        """Namespace and local name."""
        prefix, _, local = self.name.rpartition(":")
        return self.scope.get(prefix, ""), local

    def values(self) -> dict[tuple[str, str], str]:
        """Return attributes by namespace and local name."""
        return {_of_attribute(n, self.scope): v for n, v in self.attributes.items()}

    def only(self, namespace: str, local: str) -> "Element":
        """Return the one element right below of that name.

        Raises:
            FormatError: There is none, or more than one.
        """
        found = [e for e in self.elements if e.qualified == (namespace, local)]
        if len(found) != 1:
            msg = f"the XML holds {len(found)} {local} in {self.name[:40]}, expected 1"
            raise FormatError(msg, code="unsupported-xml")
        return found[0]


def parse_xml(raw: bytes, *, what: str) -> Element:
    """Return the root of a document.

    Raises:
        FormatError: Not well-formed UTF-8 XML, or more than such documents need.
    """
    builder = _Builder(what)
    parser = expat.ParserCreate("utf-8")
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.add_text
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.ProcessingInstructionHandler = builder.refuse
    try:
        raw.decode()  # the parser would take other encodings, too
        parser.Parse(raw, True)  # noqa: FBT003 - expat's own
    except (expat.ExpatError, ValueError) as exc:
        msg = f"the {what} is not well-formed XML ({type(exc).__name__})"
        raise FormatError(msg, code="not-xml") from exc
    return builder.root


class _Builder:
    """Makes elements of what the parser sees."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._top = Element("", {}, {})
        self._open = [self._top]
        self._count = 0

    @property
    def root(self) -> Element:
        return next(self._top.elements)

    def start(self, name: str, pairs: list[str]) -> None:
        self._count += 1
        if self._count > _MAX_ELEMENTS or len(self._open) > _MAX_DEPTH:
            self.refuse()
        declared: Scope = {}
        attributes: dict[str, str] = {}
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if key == "xmlns" or key.startswith("xmlns:"):
                declared[key.partition(":")[2]] = value
            else:
                attributes[key] = value
        around = self._open[-1].scope
        scope = {**around, **declared} if declared else around
        if len(scope) > _MAX_NAMESPACES:
            self.refuse()
        element = Element(name, attributes, scope)
        for one in (name, *attributes):
            prefix, colon, local = one.partition(":")
            if colon and (not scope.get(prefix) or not local or ":" in local):
                self.refuse()  # an `xml:` attribute among them
        if len(element.values()) != len(attributes):
            self.refuse()
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def add_text(self, text: str) -> None:
        self._open[-1].children.append(text)

    def refuse(self, *_: Any) -> None:
        msg = f"the {self._what} holds XML that such a document does not need"
        raise FormatError(msg, code="unsupported-xml")


def canonical(element: Element, *, without: Element | None = None) -> bytes:
    """Return the canonical form of an element and all below, but not of `without`."""
    out: list[str] = []
    _write(element, {}, without, out)
    return "".join(out).encode()


def _write(
    element: Element, rendered: Scope, without: Element | None, out: list[str]
) -> None:
    out.append(f"<{element.name}")
    scope = {p: uri for p, uri in element.scope.items() if uri or rendered.get(p)}
    for prefix, uri in sorted(scope.items()):
        if rendered.get(prefix, "") != uri:
            out.append(f' {f"xmlns:{prefix}" if prefix else "xmlns"}="{_value(uri)}"')
    pairs = element.attributes.items()
    for name, value in sorted(pairs, key=lambda p: _of_attribute(p[0], scope)):
        out.append(f' {name}="{_value(value)}"')
    out.append(">")
    for child in element.children:
        if isinstance(child, str):
            out.append(_text(child))
        elif child is not without:
            _write(child, scope, without, out)
    out.append(f"</{element.name}>")


def _of_attribute(name: str, scope: Scope) -> tuple[str, str]:
    prefix, _, local = name.rpartition(":")
    return scope[prefix] if prefix else "", local


def _text(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return text.replace(">", "&gt;").replace("\r", "&#xD;")


def _value(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("\t", "&#x9;").replace("\n", "&#xA;").replace("\r", "&#xD;")


@dataclass(frozen=True, slots=True)
class Signed:
    """A document's signature, taken apart.

    Attributes:
        signed_bytes: What the signature covers.
        signature: ECDSA P-384, r and s, 96 bytes.
        certificates: DER, leaf first; nothing about them is checked.
        digest: That the signed bytes name for the document.
        document: What the digest is of.
    """

    signed_bytes: bytes
    signature: bytes
    certificates: tuple[bytes, ...]
    digest: bytes
    document: bytes

    def check_digest(self) -> None:
        """Check that what is signed is this document.

        Raises:
            VerificationError: It is another one.
        """
        if hashlib.sha384(self.document).digest() != self.digest:
            msg = "the document is not the one that was signed: it was changed"
            raise VerificationError(msg, code="document-changed")


def signature_of(root: Element) -> Signed:
    """Return the signature of a document.

    Raises:
        FormatError: There is not exactly one, or it is made in another way.
    """
    signature = root.only(DSIG, "Signature")
    all_of_them = [e for e in _walk(root) if e.qualified == (DSIG, "Signature")]
    info = signature.only(DSIG, "SignedInfo")
    reference = info.only(DSIG, "Reference")
    transforms = [_algorithm(e) for e in reference.only(DSIG, "Transforms").elements]
    right = (
        len(all_of_them) == 1
        and _algorithm(info.only(DSIG, "CanonicalizationMethod")) in _CANONICAL
        and _algorithm(info.only(DSIG, "SignatureMethod")) == f"{_MORE}ecdsa-sha384"
        and _algorithm(reference.only(DSIG, "DigestMethod")) == f"{_MORE}sha384"
        and reference.values() == {("", "URI"): ""}
        and transforms[:1] == [f"{DSIG}enveloped-signature"]
        and len(transforms) in {1, 2}
        and set(transforms[1:]) <= _CANONICAL
    )
    if not right:
        msg = "the document is signed in a way that is not expected of such documents"
        raise FormatError(msg, code="unsupported-xml")
    certificates = [
        element
        for element in signature.only(DSIG, "KeyInfo").only(DSIG, "X509Data").elements
        if element.qualified == (DSIG, "X509Certificate")
    ]
    return Signed(
        signed_bytes=canonical(info),
        signature=_base64(signature.only(DSIG, "SignatureValue").text),
        certificates=tuple(_base64(e.text) for e in certificates),
        digest=_base64(reference.only(DSIG, "DigestValue").text),
        document=canonical(root, without=signature),
    )


def _walk(element: Element) -> Iterator[Element]:
    yield element
    for child in element.elements:
        yield from _walk(child)


def _algorithm(element: Element) -> str:
    return element.attributes.get("Algorithm", "")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise FormatError("a value in the signature is not base64") from exc
