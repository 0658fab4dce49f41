#!/usr/bin/env bash
# Fetches Keycloak's distribution from Maven Central with Maven's own client, and checks its SHA-256.
# Used while the image is built; trusts the host's CA bundle (build secret host_ca) and the build's proxy variables.
#
#   fetch.sh VERSION SHA256 DIRECTORY    leaves DIRECTORY/keycloak.tar.gz
set -euo pipefail
version=$1 sha256=$2 directory=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1

# Java reads neither PEM bundles nor HTTPS_PROXY.
if [ -s /run/secrets/host_ca ]; then
    openssl pkcs12 -export -nokeys -jdktrust anyExtendedKeyUsage -passout pass:changeit \
        -in /run/secrets/host_ca -out "$work/trust.p12"
    export MAVEN_OPTS="-Djavax.net.ssl.trustStore=$work/trust.p12 -Djavax.net.ssl.trustStorePassword=changeit"
fi
proxy=${HTTPS_PROXY:-${https_proxy:-}}
proxy=${proxy#*://} proxy=${proxy%%/*}
{
    echo '<settings>'
    if [ -n "$proxy" ]; then
        login=${proxy%@*} host=${proxy##*@}
        [ "$login" = "$proxy" ] && login=
        echo "<proxies><proxy><protocol>https</protocol><host>${host%:*}</host><port>${host##*:}</port>"
        [ -z "$login" ] || echo "<username>${login%%:*}</username><password>${login#*:}</password>"
        echo '</proxy></proxies>'
    fi
    echo '</settings>'
} >"$work/settings.xml"

mvn -q -B -s "$work/settings.xml" -Dmaven.repo.local="$work/repository" "$plugin:copy" \
    -Dartifact="org.keycloak:keycloak-quarkus-dist:$version:tar.gz" -DoutputDirectory="$work"
mkdir -p "$directory"
mv "$work/keycloak-quarkus-dist-$version.tar.gz" "$directory/keycloak.tar.gz"
echo "$sha256  $directory/keycloak.tar.gz" | sha256sum --check --quiet
