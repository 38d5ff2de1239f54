"""A local server that answers as the vendors' services do, and misbehaves on command.

with VendorServices(intel=attester, amd=processor, now=now) as services:
    services.misbehave("/tcb", "500", times=2)
    VendorCollateral(store, services=services.addresses).collateral(quote)
"""

import base64
import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

from cryptography.x509.ocsp import load_der_ocsp_request

from privacy.tee.collateral import SignedJson
from privacy.tee.parse import _to_pem
from privacy.tee.services import SERVICES
from privacy.tee.simulated_collateral import Defects, simulated_collateral
from privacy.tee.simulated_nvidia import ocsp_response
from privacy.tee.simulated_pki import make_root

JSON, BINARY, PEM = "application/json", "application/octet-stream", "application/x-pem"


def answer_of(name: str, signed: SignedJson) -> bytes:
    """Return a statement as Intel's service sends it."""
    body, signature = signed.body.decode(), signed.signature.hex()
    return f'{{"{name}":{body},"signature":"{signature}"}}'.encode()


class VendorServices:
    """Answers about one simulated platform of each vendor that is given."""

    def __init__(self, *, now, intel=None, amd=None, nvidia=None, defects=None):
        self.answers: dict[str, tuple[str, bytes, dict[str, str]]] = {}
        self.asked: list[str] = []
        self._misbehaviours: list[list] = []
        if intel:
            self._intel(intel, now, defects or Defects())
        if amd:
            self._amd(amd, now)
        if nvidia:
            self._nvidia(nvidia, now)
        handler = type("Handler", (_Handler,), {"services": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.addresses = dict.fromkeys(SERVICES, self.url)

    def __enter__(self):
        threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=0.02), daemon=True
        ).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def misbehave(self, path: str, how: str, *, times: int = 10**6) -> None:
        """Answer requests whose path holds `path` in that way, so many times."""
        self._misbehaviours.append([path, how, times])

    def how(self, path: str) -> str:
        for one in self._misbehaviours:
            if one[0] in path and one[2] > 0:
                one[2] -= 1
                return one[1]
        return ""

    def find(self, path: str):
        found = [a for part, a in self.answers.items() if part in path]
        return found[0] if found else None

    def _intel(self, attester, now, defects):
        made = simulated_collateral(attester.ca, now=now, defects=defects)
        signer, root = made.certificates[0], make_root().der
        chain = quote(_to_pem(signer) + _to_pem(root))
        below = quote(_to_pem(attester.ca.der) + _to_pem(root))
        info = answer_of("tcbInfo", made.tcb_infos[0])
        qe = answer_of("enclaveIdentity", made.qe_identities[0])
        name = "SGX-Enclave-Identity-Issuer-Chain"
        self.answers |= {
            "/tcb?fmspc=": (JSON, info, {"TCB-Info-Issuer-Chain": chain}),
            "/qe/identity": (JSON, qe, {name: chain}),
            "/pckcrl?": (BINARY, made.crls[1], {"SGX-PCK-CRL-Issuer-Chain": below}),
            "/IntelSGXRootCA.der": (BINARY, made.crls[0], {}),
        }

    def _amd(self, processor, now):
        made = processor.collateral(now)
        chain = _to_pem(processor.ask.der) + _to_pem(processor.ark.der)
        self.answers |= {
            "/cert_chain": (PEM, chain, {}),
            "/crl": (BINARY, made.crls[0], {}),
            "/vcek/v1/": (BINARY, processor.leaf.der, {}),
        }

    def _nvidia(self, device, now):
        made = device.collateral(now)
        names = ["NV_SWITCH_BIOS"] if device.is_switch else ["DRIVER_", "NV_GPU_VBIOS"]
        for name, rim in zip(names, made.rims, strict=True):
            body = {"id": name, "rim": base64.b64encode(rim).decode()}
            self.answers[name] = (JSON, json.dumps(body).encode(), {})
        of_signer = ocsp_response(device.rim_signer, device.rim_root, now)
        self.ocsp = {
            device.ca.certificate.serial_number: made.ocsp[0],
            device.rim_signer.certificate.serial_number: of_signer,
        }


class _Handler(BaseHTTPRequestHandler):
    services: VendorServices

    def log_message(self, *_):
        pass

    def do_GET(self):
        size = int(self.headers.get("Content-Length", 0))
        self.sent = self.rfile.read(size)
        self.services.asked.append(self.path)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._answer(self.services.how(self.path))

    do_POST = do_GET  # noqa: N815

    def _answer(self, how: str) -> None:  # noqa: C901, PLR0912
        found = self.services.find(self.path)
        if self.sent:
            serial = load_der_ocsp_request(self.sent).serial_number
            found = ("application/ocsp-response", self.services.ocsp[serial], {})
        if found is None:
            return self._send(404, "text/plain", b"no such platform")
        media, body, headers = found
        match how.partition(" ")[::2]:
            case "status", code:
                self._send(int(code), "text/plain", b"")
            case "busy", seconds:
                self._send(429, "text/plain", b"", {"Retry-After": seconds})
            case "truncated", _:
                self._send(200, media, body, headers, cut=len(body) // 2)
            case "page", _:
                self._send(200, "text/html", b"<html>log in</html>", headers)
            case "garbage", _:
                self._send(200, media, b"\x00garbage", headers)
            case "empty", _:
                self._send(200, media, b"", headers)
            case "huge", _:
                self._huge()
            case "slow", seconds:
                self._slow(media, body, headers, float(seconds))
            case "elsewhere", where:
                self._send(302, media, b"", {"Location": where})
            case "chainless", _:
                self._send(200, media, body)
            case "other", path:
                self._send(200, *self.services.find(path)[:2], headers)
            case _:
                self._send(200, media, body, headers)
        return None

    def _send(self, code, media, body, headers=None, *, cut=None):
        self.send_response(code)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def _huge(self):
        self.send_response(200)
        self.send_header("Content-Type", JSON)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(bytes(1 << 16))

    def _slow(self, media, body, headers, seconds):
        self.send_response(200)
        self.send_header("Content-Type", media)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for byte in body[:100]:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(seconds)
