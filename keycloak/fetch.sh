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
# Prints Maven's settings: the proxy's URL in its parts, decoded (RFC 3986, section 2.1) and escaped for XML.
settings() {
    perl -e '
        my ($url) = @ARGV;
        my ($scheme, $login, $host, $port) = $url =~ m{^(?:(https?)://)?(?:(.*)\@)?([^\@:/\[\]]+|\[[^\]]+\])(?::(\d+))?/?$}
            or die "HTTPS_PROXY is no proxy\x27s URL: give http://host:port or http://login:password\@host:port.\n";
        my %part = (host => $host =~ tr/[]//dr, port => $port // ($scheme eq "https" ? 443 : 80));
        if (defined $login) {
            my ($name, $password) = split /:/, $login, 2;
            @part{qw(username password)} = map { s/%([0-9a-fA-F]{2})/chr hex $1/ger } $name, $password // "";
        }
        print "<proxies><proxy><protocol>https</protocol>";
        for (sort keys %part) {
            my $text = $part{$_} =~ s/[&<>]/"&#" . ord($&) . ";"/ger;
            print "<$_>$text</$_>";
        }
        print "</proxy></proxies>";' "$1"
}
proxy=${HTTPS_PROXY:-${https_proxy:-}}
{
    echo '<settings>'
    [ -z "$proxy" ] || settings "$proxy"
    echo '</settings>'
} >"$work/settings.xml"

mvn -q -B -s "$work/settings.xml" -Dmaven.repo.local="$work/repository" "$plugin:copy" \
    -Dartifact="org.keycloak:keycloak-quarkus-dist:$version:tar.gz" -DoutputDirectory="$work"
mkdir -p "$directory"
mv "$work/keycloak-quarkus-dist-$version.tar.gz" "$directory/keycloak.tar.gz"
echo "$sha256  $directory/keycloak.tar.gz" | sha256sum --check --quiet
