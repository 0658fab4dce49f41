"""The module that Flower finds as `flwr.ee`; every name in it is one that the pinned Flower imports.

It is imported before Flower is, so it imports nothing of Flower at its top. Flower falls back *silently* when one name
is missing: a unit test compares these with Flower's source, and `launcher` asserts at start-up what came of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowerbed_superlink.settings import settings

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from flwr.common.event_log_plugin import EventLogWriterPlugin
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.license_plugin import LicensePlugin
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.artifact_provider import ArtifactProvider
    from flwr.superlink.auth_plugin import ControlAuthnPlugin
    from flwr.superlink.federation import FederationManager


def get_control_authn_ee_plugins() -> dict[str, type[ControlAuthnPlugin]]:
    """Return the login plugin; the launcher has it loaded by FLWR_OIDC_ENABLED."""
    from flwr.common.constant import AuthnType

    from flowerbed_superlink.login import OidcLogin

    return {AuthnType.OIDC: OidcLogin}


def get_ee_federation_manager() -> FederationManager:
    """Return the federation manager."""
    from flowerbed_superlink.federations import FlowerbedFederationManager

    return FlowerbedFederationManager(settings().config)


def get_ee_objectstore_factory(database: str) -> ObjectStoreFactory:
    """Return the factory of the ObjectStore on PostgreSQL."""
    from flowerbed_superlink.state import PostgresObjectStoreFactory

    return PostgresObjectStoreFactory(database)


def get_ee_linkstate_factory(
    database: str, federation_manager: FederationManager, objectstore_factory: ObjectStoreFactory
) -> LinkStateFactory:
    """Return the factory of the LinkState on PostgreSQL."""
    from flowerbed_superlink.state import PostgresLinkStateFactory

    return PostgresLinkStateFactory(database, federation_manager, objectstore_factory)


def get_ee_linkstate_db() -> str:
    """Return the database's URL."""
    return settings().database


def add_ee_args_superlink(parser: ArgumentParser) -> None:
    """Add the two options of the SuperLink that exist only when somebody adds them."""
    parser.add_argument("--enable-event-log", action="store_true", help="Write an event log of API calls.")
    parser.add_argument("--artifact-provider-config", metavar="DIRECTORY", help="Directory of the runs' results.")


def get_ee_artifact_provider(config_path: str) -> ArtifactProvider:
    """Return the provider behind `flwr pull`; the path is the directory of the runs' results."""
    from pathlib import Path

    from flowerbed_superlink.artifacts import ResultsProvider

    return ResultsProvider(Path(config_path), settings().public_url)


def get_control_event_log_writer_plugins() -> dict[str, type[EventLogWriterPlugin]]:
    """Return the writers of the Control API's event log."""
    from flwr.common.constant import EventLogWriterType

    from flowerbed_superlink.eventlog import JsonEventLog

    return {EventLogWriterType.STDOUT: JsonEventLog}


def get_fleet_event_log_writer_plugins() -> dict[str, type[EventLogWriterPlugin]]:
    """Return the writers of the Fleet API's event log."""
    return get_control_event_log_writer_plugins()


def get_license_plugin() -> LicensePlugin | None:
    """Return no licence check: there is nothing to license."""
    return None
