"""XML: canonical form, one signature over everything, nothing that is not needed."""

import pytest

from privacy.errors import FormatError, PrivacyError, VerificationError
from privacy.tee.rim import parse_rim, verify_rim
from privacy.tee.simulated_nvidia import DRIVER, RimDefects, SimulatedNvidia
from privacy.tee.xmldsig import DSIG, canonical, parse_xml, signature_of


@pytest.fixture(scope="module")
def device():
    return SimulatedNvidia()


@pytest.fixture(scope="module")
def rim(device):
    return device.rim(DRIVER, {0: [bytes(48), b"\1" * 48], 7: [b"\2" * 48]})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"<a/>", b"<a></a>"),
        (b"<?xml version='1.0'?>\n<a>\n</a>\n", b"<a>\n</a>"),
        (b"<a c='1' b='2'/>", b'<a b="2" c="1"></a>'),
        (b"<a><!-- gone --></a>", b"<a></a>"),
        (b"<a><![CDATA[<&>]]></a>", b"<a>&lt;&amp;&gt;</a>"),
        (
            b"<a b='&#10;&#9;&#13;&quot;&lt;&amp;'/>",
            b'<a b="&#xA;&#x9;&#xD;&quot;&lt;&amp;"></a>',
        ),
        (b"<a>x\r\ny&#13;</a>", b"<a>x\ny&#xD;</a>"),
        (b"<a xmlns:z='u' xmlns='d'/>", b'<a xmlns="d" xmlns:z="u"></a>'),
        (
            b"<a xmlns:z='u'><b xmlns:z='u'/><z:c xmlns:z='v'/></a>",
            b'<a xmlns:z="u"><b></b><z:c xmlns:z="v"></z:c></a>',
        ),
        (b"<a xmlns='d'><b xmlns=''/></a>", b'<a xmlns="d"><b xmlns=""></b></a>'),
        (b"<a xmlns=''><b/></a>", b"<a><b></b></a>"),
        (
            b"<a xmlns:y='2' xmlns:x='9' y:k='1' x:k='2' k='3'/>",
            b'<a xmlns:x="9" xmlns:y="2" k="3" y:k="1" x:k="2"></a>',
        ),
        ("<a>é</a>".encode(), "<a>é</a>".encode()),
    ],
)
def test_canonical_form_is_as_the_recommendation_says(raw, expected):
    assert canonical(parse_xml(raw, what="x")) == expected


def test_a_part_renders_the_namespaces_around_it():
    root = parse_xml(b"<a xmlns='d' xmlns:z='u'><b/></a>", what="x")
    (part,) = root.elements
    assert canonical(part) == b'<b xmlns="d" xmlns:z="u"></b>'
    assert canonical(root, without=part) == b'<a xmlns="d" xmlns:z="u"></a>'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<a>",
        b"<a></b>",
        b"<a/><b/>",
        b"<a b='1' b='2'/>",
        b"<a>&undefined;</a>",
        b"<a>\xff</a>",
        b"\xff\xfe<\0a\0/\0>\0",
        b"<!DOCTYPE a><a/>",
        b"<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>",
        b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
        b"<?php ?><a/>",
        b"<a><?x y?></a>",
        b"<z:a/>",
        b"<a z:b='1'/>",
        b"<a xml:lang='en'/>",
        b"<a xmlns:x='u' xmlns:y='u' x:b='1' y:b='2'/>",
        b"<a>" * 17 + b"</a>" * 17,
        b"<a %s/>" % b" ".join(b"xmlns:n%d='u'" % i for i in range(33)),
        b"<a>" + b"<b/>" * 20_000 + b"</a>",
    ],
)
def test_what_such_documents_do_not_need_is_refused(raw):
    with pytest.raises(FormatError) as caught:
        parse_xml(raw, what="document")
    assert caught.value.code in {"not-xml", "unsupported-xml"}


def test_a_billion_laughs_cost_nothing():
    lines = [b'<!ENTITY a0 "ha">']
    lines += [
        b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 12)
    ]
    raw = b"<!DOCTYPE a [%s]><a>&a11;</a>" % b"".join(lines)
    with pytest.raises(FormatError) as caught:
        parse_xml(raw, what="document")
    assert caught.value.code == "unsupported-xml"


def test_a_rim_is_taken_apart_and_verified(device, rim, now):
    found = parse_rim(rim)
    assert found.about == "GH100 550.90.07"
    assert found.values == {0: (bytes(48), b"\1" * 48), 7: (b"\2" * 48,)}
    chain = verify_rim(found, device.trust_store, now=now)
    assert chain[0] == device.rim_signer.certificate


CHANGES = {
    "value": (b"02" * 48, b"03" * 48, "document-changed"),
    "version": (b"550.90.07", b"550.90.08", "document-changed"),
    "space": (b"<ns0:Payload ", b" <ns0:Payload ", "document-changed"),
    "namespace": (b"xmlns:SHA384=", b"xmlns:SHA385=", "document-changed"),
    "not signed": (b"<ds:Signature ", b"<ds:signature ", "not-xml"),
    "transform": (b"#enveloped-signature", b"#enveloped", "unsupported-xml"),
    "sha1": (b"ecdsa-sha384", b"ecdsa-sha256", "unsupported-xml"),
    "digest": (b"xmldsig-more#sha384", b"xmldsig-more#sha224", "unsupported-xml"),
    "part of it": (b'URI=""', b'URI="#a"', "unsupported-xml"),
    "signed bytes": (b"<ds:SignedInfo>", b"<ds:SignedInfo> ", "rim-signature"),
    "no info": (b"ds:SignedInfo", b"ds:SignedInfa", "unsupported-xml"),
    "index twice": (b'index="7"', b'index="0"', "malformed"),
    "no index": (b'index="7"', b'inde="7"', "malformed"),
    "count": (b'alternatives="2"', b'alternatives="3"', "malformed"),
    "no value": (b'alternatives="2"', b'alternatives="0"', "malformed"),
    "short value": (b"02" * 48, b"02" * 47, "malformed"),
    "inactive": (b'active="True"', b'active="False"', "malformed"),
    "other payload": (b"ns0:Resource", b"ns0:File", "malformed"),
    "other root": (b"SoftwareIdentity", b"SoftwareIdentite", "malformed"),
    "signature": (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA", "rim-signature"),
    "no base64": (b"<ds:SignatureValue>", b"<ds:SignatureValue>*", "malformed"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_rim_that_was_changed_is_refused(device, rim, now, name):
    old, new, code = CHANGES[name]
    assert old in rim
    with pytest.raises(PrivacyError) as caught:
        verify_rim(parse_rim(rim.replace(old, new)), device.trust_store, now=now)
    assert caught.value.code == code


def test_a_signature_wrapped_elsewhere_is_refused(rim):
    begin, end = rim.index(b"<ds:Signature "), rim.index(b"</SoftwareIdentity>")
    signature = rim[begin:end]
    wrapped = rim[:begin] + b"<x>" + signature + b"</x>" + rim[end:]
    twice = rim[:end] + signature + rim[end:]
    inside = rim.replace(b"</ns0:Payload>", signature + b"</ns0:Payload>")
    without = rim[:begin] + rim[end:]
    for raw in (wrapped, twice, inside, without):
        with pytest.raises(FormatError):
            parse_rim(raw)


def test_no_changed_byte_of_a_rim_passes(device, rim, now):
    whole = parse_rim(rim)
    for at in range(0, len(rim), 23):
        raw = rim[:at] + bytes([rim[at] ^ 1]) + rim[at + 1 :]
        try:
            found = parse_rim(raw)
            verify_rim(found, device.trust_store, now=now)
        except PrivacyError:
            continue
        # What is allowed to differ does not count: the signature's own white space.
        assert (found.values, found.about) == (whole.values, whole.about)
        assert found.signed == whole.signed


def test_rims_of_other_signers_are_refused(device, now):
    other = SimulatedNvidia()
    values = {0: [bytes(48)]}
    made = device.rim(DRIVER, values, RimDefects(signer=other.rim_signer))
    chain = (device.rim_signer.der, device.rim_root.der)
    stolen = device.rim(
        DRIVER, values, RimDefects(signer=other.rim_signer, chain=chain)
    )
    device_root = (device.leaf.der, device.ca.der, device.root.der)
    leaf = device.rim(DRIVER, values, RimDefects(signer=device.leaf, chain=device_root))
    for raw, code in (
        (made, "certificate-signature"),
        (stolen, "rim-signature"),
        (leaf, "untrusted-root"),
    ):
        with pytest.raises(VerificationError) as caught:
            verify_rim(parse_rim(raw), device.trust_store, now=now)
        assert caught.value.code == code


def test_other_words_about_the_signer_are_passed_over(device, rim, now):
    name = b"<ds:X509Data><ds:X509SubjectName>CN=x</ds:X509SubjectName>"
    found = parse_rim(rim.replace(b"<ds:X509Data>", name))
    assert found.signed.certificates == parse_rim(rim).signed.certificates
    assert verify_rim(found, device.trust_store, now=now)


def test_signature_of_needs_exactly_one(rim):
    root = parse_xml(rim, what="x")
    assert signature_of(root).certificates
    assert len(list(root.elements)) == 3
    assert root.only(DSIG, "Signature").text == ""
    with pytest.raises(FormatError):
        root.only(DSIG, "Nothing")
