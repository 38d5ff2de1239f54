"""The data owner's own folder: configuration, keys, pins, cached artifacts, receipts.

    config.json        gateway address and API key, 0600
    gateways/ID.json   a gateway's receipt keys, models and publishers as first seen
    gateways/ID.log/   heads of its log as seen: see `privacy.client.log_heads`
    publishers.json    publishers to trust, and publisher.key: see `privacy.publisher`
    keys/ID.sealed     FHE secret keys: see `privacy.client.keystore`
    models/SHA256/     a model's manifest and public files, by model digest
    receipts/JOB/      receipt.json with what is needed to check it offline
    collateral/        vendors' answers about platforms: see `privacy.tee.cache`

`$PRIVACY_HOME`, or `~/.privacy`.
"""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from privacy.bundle import check_name
from privacy.client.keyring import get_secret, put_secret
from privacy.clock import now
from privacy.encoding import Json, check_sha256, parse_object, sha256_hex
from privacy.errors import FormatError, VerificationError
from privacy.files import locked, write_atomic
from privacy.key_history import ReceiptKey, extend, read_history, united
from privacy.publisher import TRUST_FILE, trusted_publishers
from privacy.tls import NO_TLS, TlsFiles

JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class Home:
    """The folder; made on first use, readable by its owner only."""

    root: Path

    @property
    def collateral(self) -> Path:
        """Folder of what evidence of hardware is verified with; may be missing."""
        return self.root / "collateral"

    def config(self) -> Json:
        """Return what `save_login` saved, or nothing."""
        return self._read(self.root / "config.json")

    def save_login(
        self,
        *,
        gateway: str,
        api_key: str,
        name: str = "",
        keyring: bool = False,
        tls: TlsFiles = NO_TLS,
    ) -> None:
        """Keep a gateway's address and the API key.

        Args:
            gateway: Its address.
            api_key: The key for it.
            name: To call it by; without one it is the gateway used by default.
            keyring: Keep the API key, and from now on the passphrase of new FHE keys,
                in the operating system's keyring.
            tls: Files for TLS, which stay where they are.
        """
        if keyring:
            put_secret(_keyring_name(gateway), api_key)
        login: Json = {"gateway": gateway, "api_key": "" if keyring else api_key}
        if tls:
            given = asdict(tls).items()
            login["tls"] = {n: str(path.absolute()) for n, path in given if path}
        with self.locked("config"):
            config = self.config()
            if name:
                check_name(name)
                named = {**config.get("gateways", {}), name: login}
                config = {**config, "gateways": named}
            if not name or "gateway" not in config:
                config.pop("tls", None)  # of the gateway that was used so far
                config = {**config, **login}
            if keyring:
                config["keyring"] = True
            self._write(self.root / "config.json", config)

    def address(self, gateway: str) -> str:
        """Return the address of a gateway named at its login, else the text itself."""
        named = self.config().get("gateways", {})
        return str(named[gateway]["gateway"] if gateway in named else gateway)

    def api_key(self, gateway: str) -> str:
        """Return the API key saved for the gateway of an address, "" if none is."""
        config, login = self.config(), self._login(gateway)
        if not login:
            return ""
        in_ring = config.get("keyring") and not login["api_key"]
        found = get_secret(_keyring_name(gateway)) if in_ring else None
        return found or str(login["api_key"])

    def tls(self, gateway: str) -> TlsFiles:
        """Return the files for TLS saved for the gateway of an address."""
        saved = self._login(gateway).get("tls", {})
        return TlsFiles(**{name: Path(path) for name, path in saved.items()})

    def _login(self, gateway: str) -> Json:
        config = self.config()
        logins: list[Json] = [config, *config.get("gateways", {}).values()]
        return next((x for x in logins if x.get("gateway") == gateway), {})

    def pins(self, gateway: str) -> Json:
        """Return what was first seen of a gateway: `keys` (JWKs) and `models`."""
        return self._read(self.pins_path(gateway))

    def pin_keys(self, gateway: str, jwks: Json) -> None:
        """Remember a gateway's receipt keys, whatever was known before."""
        read_history(jwks)
        with self.locked("gateways"):
            self._pin_keys(gateway, jwks)

    def renew_keys(self, gateway: str, jwks: Json) -> None:
        """Remember a gateway's receipt keys if they continue those known before.

        Raises:
            CannotVerifyError: The known ones do not vouch for them.
            VerificationError: Their history is another one than before.
        """
        with self.locked("gateways"):
            known = self.pins(gateway)
            if known.get("keys"):
                extend(_key_set(known), jwks)
            else:
                read_history(jwks)
            self._pin_keys(gateway, jwks)

    def _pin_keys(self, gateway: str, jwks: Json) -> None:
        pins = {"models": {}, **self.pins(gateway), **_key_set(jwks)}
        pins |= {"url": gateway, "keys_seen_at": now()}
        self._write(self.pins_path(gateway), pins)

    def receipt_keys(self, gateway: str) -> dict[str, ReceiptKey]:
        """Return a gateway's receipt keys as pinned, by key id."""
        return read_history(_key_set(self.pins(gateway)))

    def log_folder(self, gateway: str) -> Path:
        """Return the folder of what was seen of a gateway's log; may be missing."""
        return self.pins_path(gateway).with_suffix(".log")

    def log_folders(self) -> list[Path]:
        """Return the folders of every log seen so far."""
        return sorted((self.root / "gateways").glob("*.log"))

    def pin_model(self, gateway: str, model: str, sha256: str) -> None:
        """Remember a model's digest, or refuse one that differs from the remembered.

        Raises:
            VerificationError: The gateway serves another model under this name and
                version than it did before.
        """
        with self.locked("gateways"):
            pins = {"models": {}, **self.pins(gateway)}
            known = pins["models"].get(model)
            if known is None:
                pins["models"][model] = sha256
                self._write(self.pins_path(gateway), {**pins, "url": gateway})
        if known not in {None, sha256}:
            msg = (
                f"the gateway serves {model} with digest {sha256[:12]}…, before it was "
                f"{known[:12]}…: ask the publisher, then use {model}@{sha256}"
            )
            raise VerificationError(msg, code="model-changed")

    def pin_publisher(self, gateway: str, name: str, publisher: str) -> None:
        """Remember who signs a model, or refuse another than the remembered.

        Args:
            gateway: Its address.
            name: The model's name; all its versions have one publisher.
            publisher: Key id, "" if nobody signed.

        Raises:
            VerificationError: Somebody else signed, whom `publishers.json` does not
                name, or nobody.
        """
        with self.locked("gateways"):
            pins = {"publishers": {}, **self.pins(gateway)}
            known = pins["publishers"].get(name)
            trusted = trusted_publishers(self.root / TRUST_FILE)
            if publisher and (known is None or publisher in trusted):
                pins["publishers"][name] = known = publisher
                self._write(self.pins_path(gateway), {**pins, "url": gateway})
        if known not in {None, publisher}:
            msg = (
                f"model {name} is signed by {publisher or 'nobody'}, before it was by "
                f"{known}: ask the publisher, then `privacy publisher --trust FILE`"
            )
            raise VerificationError(msg, code="publisher-changed")

    def all_trusted_keys(self) -> dict[str, ReceiptKey]:
        """Return every receipt key of every gateway met so far."""
        return united(self.key_sets())

    def key_sets(self) -> list[dict[str, ReceiptKey]]:
        """Return the receipt keys of each gateway met so far."""
        paths = sorted((self.root / "gateways").glob("*.json"))
        pins = [self._read(path) for path in paths]
        return [read_history(_key_set(p)) for p in pins if p.get("keys")]

    def model(self, sha256: str) -> Path:
        """Return the folder of a model's public files, a partial bundle."""
        return self.root / "models" / check_sha256(sha256, what="model digest")

    def receipt_folder(self, job_id: str) -> Path:
        """Return the folder where a job's receipt is kept."""
        if not JOB_ID.fullmatch(job_id):
            raise FormatError("the gateway gave a job id that is not a plain name")
        return self.root / "receipts" / job_id

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keep other processes and threads that ask for this name waiting meanwhile."""
        return locked(self.root / f".{name}.lock")

    def pins_path(self, gateway: str) -> Path:
        """Return the file of what was first seen of a gateway."""
        return self.root / "gateways" / f"{sha256_hex(gateway.encode())[:16]}.json"

    def _read(self, path: Path) -> Json:
        if not path.is_file():
            return {}
        return parse_object(path.read_bytes(), what=str(path))

    def _write(self, path: Path, value: Json) -> None:
        write_atomic(path, json.dumps(value, indent=1).encode(), private=True)


def _key_set(found: Json) -> Json:
    """Return the members that make a key set."""
    return {name: found[name] for name in ("keys", "history") if name in found}


def _keyring_name(gateway: str) -> str:
    return f"api-key {gateway}"
