#!/bin/bash
# Succeeds when Keycloak is ready and its database answers. Asks the management port through bash: no curl, no second JVM.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/9000
printf 'GET /health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
IFS=' ' read -r -t 4 _ status _ <&3
[ "$status" = 200 ]
