"""A private certificate authority for gateways, nodes, peers and clients.

>>> import tempfile
>>> from pathlib import Path
>>> from privacy.certs import Certificates
>>> certs = Certificates(Path(tempfile.mkdtemp()) / "certs")
>>> _ = certs.init("example")
>>> certs.issue("gateway-a", kind="gateway", hosts=["localhost"]).kind
'gateway'
"""

from privacy.certs.store import Authority, Certificates, Issued

__all__ = ["Authority", "Certificates", "Issued"]
