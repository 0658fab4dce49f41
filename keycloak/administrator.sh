#!/bin/bash
# Makes a temporary administrator of realm master beside the running server, for the admin console; asks for a password.
#
#   flowerbed-keycloak-administrator NAME [further options of `kc.sh bootstrap-admin user`]
set -euo pipefail
name=${1:?say who: flowerbed-keycloak-administrator NAME}
shift
# The server has the port of the configuration.
export KC_HTTP_MANAGEMENT_PORT=9001 KC_LOG_LEVEL=error JAVA_OPTS_KC_HEAP="-Xms32m -Xmx160m"
exec /opt/keycloak/bin/kc.sh --config-file /secrets/keycloak.conf bootstrap-admin user --optimized --username "$name" "$@"
