"""The files by which the real easyrsa and `openssl ca` go on where we stop. Texts only.

easyrsa reads `vars` and `x509-types/` from the store before its own; without them it falls back to RSA keys and to a
keyUsage that RFC 8813 forbids with EC. In the types there is no blank before `=`: where it finds one, `easyrsa renew`
writes `critical` a second time.
"""

from __future__ import annotations

from collections.abc import Mapping

_LEAF = """\
basicConstraints=critical,CA:FALSE
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
keyUsage=critical,digitalSignature
"""
_TYPES = {
    "COMMON": "",
    "ca": """\
basicConstraints=critical,CA:TRUE,pathlen:0
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid:always
keyUsage=critical,cRLSign,keyCertSign
""",
    "server": f"{_LEAF}extendedKeyUsage=serverAuth\n",
    "client": f"{_LEAF}extendedKeyUsage=clientAuth\n",
    "serverClient": f"{_LEAF}extendedKeyUsage=serverAuth,clientAuth\n",
}
_VARS = """\
# What easyrsa 3.2 needs to make certificates like flowerbed's. Written once by flowerbed ca, then yours. (No backticks
# here: easyrsa refuses them.)
if [ -z "$EASYRSA_CALLER" ]; then
	echo "easyrsa reads this file by itself." >&2
	return 1
fi
set_var EASYRSA_DN "org"
set_var EASYRSA_ALGO "ec"
set_var EASYRSA_CURVE "secp384r1"
set_var EASYRSA_DIGEST "sha384"
set_var EASYRSA_CA_EXPIRE "{root_days}"
set_var EASYRSA_CERT_EXPIRE "{leaf_days}"
set_var EASYRSA_CRL_DAYS "{crl_days}"
set_var EASYRSA_RAND_SN "yes"
set_var EASYRSA_DISABLE_INLINE "1"
set_var EASYRSA_NO_TEXT "1"
set_var EASYRSA_REQ_COUNTRY ""
set_var EASYRSA_REQ_PROVINCE ""
set_var EASYRSA_REQ_CITY ""
set_var EASYRSA_REQ_EMAIL ""
"""
_OPENSSL = """\
# For `openssl ca -config openssl.cnf`, run in this directory. Written once by `flowerbed ca`, then yours.
[ ca ]
default_ca = authority

[ authority ]
dir = .
database = $dir/index.txt
new_certs_dir = $dir/certs_by_serial
certificate = $dir/ca.crt
private_key = $dir/private/ca.key
serial = $dir/serial
crlnumber = $dir/crlnumber
default_md = sha384
default_days = {leaf_days}
default_crl_days = {crl_days}
unique_subject = no
preserve = yes
email_in_dn = no
policy = names
x509_extensions = server
crl_extensions = crl

[ names ]
countryName = optional
stateOrProvinceName = optional
localityName = optional
organizationName = optional
organizationalUnitName = optional
commonName = supplied

[ crl ]
authorityKeyIdentifier = keyid:always

[ server ]
{server}
[ client ]
{client}"""


def support_files(root_days: int, leaf_days: int, crl_days: int) -> Mapping[str, bytes]:
    """Content by path in the store, for lifetimes in days."""
    days = {"root_days": root_days, "leaf_days": leaf_days, "crl_days": crl_days}
    texts = {
        "vars": _VARS.format(**days),
        "openssl.cnf": _OPENSSL.format(**days, server=_TYPES["server"], client=_TYPES["client"]),
        "index.txt.attr": "unique_subject = no\n",
        **{f"x509-types/{name}": text for name, text in _TYPES.items()},
    }
    return {path: text.encode("ascii") for path, text in texts.items()}
