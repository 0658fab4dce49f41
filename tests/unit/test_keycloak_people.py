"""What a reset leaves of a person's ways to log in; the rest is tested on a real Keycloak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import MagicMock

import pytest

from flowerbed_keycloak import people


def test_a_reset_takes_away_every_way_to_log_in_but_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = MagicMock()  # a mock of python-keycloak
    types = ("password", "otp", "webauthn", "password-history", "recovery-authn-codes")
    admin.get_credentials.return_value = [{"id": f"id of {name}", "type": name} for name in types]

    @contextmanager
    def somebody(*_: object) -> Iterator[tuple[MagicMock, str]]:
        yield admin, "a user's id"

    monkeypatch.setattr(people, "_somebody", somebody)
    people.set_password(MagicMock(), "alex", "a-new-Password-1", temporary=True)
    deleted = [call.args for call in admin.delete_credential.call_args_list]
    assert deleted == [("a user's id", f"id of {name}") for name in ("otp", "webauthn", "recovery-authn-codes")]
    admin.set_user_password.assert_called_once_with("a user's id", "a-new-Password-1", temporary=True)
    admin.user_logout.assert_called_once()
