"""A keyring of the `keyring` package that lives in memory."""

import keyring.backend
import keyring.errors


class MemoryKeyring(keyring.backend.KeyringBackend):
    """`locked` makes it refuse, as one does whose owner did not unlock it."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept = {}
        self.locked = False

    def _check(self):
        if self.locked:
            raise keyring.errors.KeyringLocked("locked")

    def get_password(self, service, username):
        self._check()
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self._check()
        self.kept[service, username] = password
