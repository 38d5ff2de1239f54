"""A gateway's log as HTTP answers, in memory; it can change its past on command."""

import base64
import json

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.clock import now
from privacy.key_history import begin, key_set, revoke, succeed
from privacy.transparency.merkle import (
    append,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    range_hash,
)
from privacy.transparency.tree_head import TreeHead, sign_head


class LogSite:
    """Serves a log over receipts; `log`, `key` and `audit` may be set to lie."""

    url = "http://log.test"

    def __init__(self):
        self.key = self.first = Ed25519PrivateKey.generate()
        self.clock = now
        self.history = begin(self.key, at=now())
        self.origin = "privacy-compute/receipts/test"
        self.log = []
        self.audit = (0, "0" * 64)
        self.asked = []
        self.served_head = None

    def rotate(self, *, until=None, revoked_at=None):
        """Take a new key; with `revoked_at`, the old one is revoked at that size."""
        old, self.key = self.key, Ed25519PrivateKey.generate()
        until = until or now()
        self.history = succeed(self.history, self.key, old, at=now(), until=until)
        if revoked_at is not None:
            kid = self.history[-2]["statement"]["kid"]
            self.history = revoke(
                self.history,
                kid,
                self.key,
                at=now(),
                since=until,
                log_size=revoked_at,
            )

    def head(self):
        hashes = self._nodes().__getitem__
        root = range_hash(hashes, 0, len(self.log))
        head = TreeHead(self.origin, len(self.log), root, self.clock(), *self.audit)
        return sign_head(head, self.key)

    def transport(self):
        return httpx.MockTransport(self._answer)

    def _nodes(self):
        return append(0, {}.__getitem__, [leaf_hash(r) for r in self.log])

    def _answer(self, request):
        path, params = request.url.path, request.url.params
        self.asked.append(path)
        if path == "/.well-known/jwks.json":
            return httpx.Response(200, json=key_set(self.history))
        if path == "/v1/log/head":
            return httpx.Response(200, content=self.served_head or self.head())
        if path == "/v1/log/leaves":
            leaves = [leaf_hash(r) for r in self.log][int(params["start"]) :][:3]
            return httpx.Response(200, json={"leaf_hashes": _base64(leaves)})
        nodes = self._nodes()
        if path == "/v1/log/consistency":
            ranges = consistency_ranges(int(params["from"]), int(params["to"]))
            hashes = [range_hash(nodes.__getitem__, *r) for r in ranges]
            return httpx.Response(200, json={"path": _base64(hashes)})
        if path == "/v1/log/proof":
            leaf, size = bytes.fromhex(params["leaf_hash"]), int(params["size"])
            leaves = [leaf_hash(r) for r in self.log[:size]]
            if leaf in leaves:
                index = leaves.index(leaf)
                hashes = [
                    range_hash(nodes.__getitem__, *r)
                    for r in inclusion_ranges(index, size)
                ]
                found = {"index": index, "size": size, "path": _base64(hashes)}
                return httpx.Response(200, json=found)
        problem = {"code": "not-in-log", "detail": "no", "family": "NotFoundError"}
        return httpx.Response(404, content=json.dumps(problem).encode())


def _base64(hashes):
    return [base64.b64encode(h).decode() for h in hashes]
