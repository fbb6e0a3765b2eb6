#!/usr/bin/env bash
# Installs the real servers that the tests talk to, where that is possible: as root, with apt-get.
# Debian then starts instances of its own, which the tests leave alone. Elsewhere this changes
# nothing. What is missing then is said in one line, and the exit status is 0: the tests that need
# it skip themselves, as loudly.
set -uo pipefail

peers=(dovecot-imapd dovecot-lmtpd postgresql debootstrap buildah rpm)

missing() {
	local p
	for p in "${peers[@]}"; do
		[[ $(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || printf '%s ' "$p"
	done
}

unless_installed() { # prints the closing line with its reason, unless nothing is missing any more
	local left
	left=$(missing)
	[[ -z $left ]] || echo "SKIPPED PEER: could not install ${left% }: $1. The tests that need them will be skipped."
	exit 0
}

# Node is not installed here: few need it, and the packages that the tests run with it come from npm (node.go).
command -v node >/dev/null && command -v npm >/dev/null ||
	echo "SKIPPED PEER: Node 20 and npm are not here. The tests that have judges from npm will be skipped."

[[ -n $(missing) ]] || exit 0
command -v apt-get >/dev/null || unless_installed "there is no apt-get here"
[[ $(id -u) == 0 ]] || unless_installed "only root may"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q -y -o DPkg::Lock::Timeout=120 \
		-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" >>"$log" 2>&1 </dev/null
}
echo "installing $(missing)for the tests ..."
read -ra want <<<"$(missing)"
# The lists may be fresh enough; fetching them is the part that fails without a network.
apt install --no-install-recommends "${want[@]}" || { apt update && apt install --no-install-recommends "${want[@]}"; } || tail -n 5 "$log"
unless_installed "apt-get failed"
