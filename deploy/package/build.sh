#!/bin/sh
# Builds the packages into bin/packages. "make packages" calls it; ARCHES, FORMATS and VERSION may be set. The format
# "container" is a directory, container-ARCH, that an image is built from without a registry: "make container".
# The same commit gives the same bytes (SOURCE_DATE_EPOCH), with the same Go.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p "${OUT:-bin/packages}"
out=$(cd "${OUT:-bin/packages}" && pwd)
export BUILD="$out/build"
formats=${FORMATS:-deb rpm}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
# A commit that is no release comes before the release that it leads to.
VERSION=${VERSION:-$(git describe --exact-match --tags 2>/dev/null | sed 's/^v//' || true)}
VERSION=${VERSION:-0.1.0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M).$(git rev-parse --short=9 HEAD 2>/dev/null || echo source)}
export SOURCE_DATE_EPOCH VERSION LC_ALL=C TZ=UTC
umask 022
rm -rf "$BUILD"
host=$(go env GOARCH) # of this machine, to ask
for arch in $(printf '%s\n' ${ARCHES:-amd64 arm64} "$host" | sort -u); do
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o "$BUILD/posthorn-$arch" ./cmd/posthorn
done

share="$BUILD/share"
doc="$share/doc/posthorn"
mkdir -p "$doc"
# Most licences ask that their text goes where the program goes.
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/posthorn | sort -u |
	while read -r path version dir; do
		printf '==== %s %s\n\n' "$path" "$version"
		find "$dir" -maxdepth 1 -type f \( -iname 'LICEN[CS]E*' -o -iname 'COPYING*' -o -iname 'NOTICE*' \) | sort | xargs -r cat
		echo
	done | gzip -9n >"$doc/third-party-licences.gz"

documents() { # all but the program and its licences
	mkdir -p "$doc/examples" "$share/man/man1" "$share/bash-completion/completions" "$share/fish/vendor_completions.d"
	"$BUILD/posthorn-$host" completion bash >"$share/bash-completion/completions/posthorn"
	"$BUILD/posthorn-$host" completion zsh >"$BUILD/zsh"
	"$BUILD/posthorn-$host" completion fish >"$share/fish/vendor_completions.d/posthorn.fish"
	go test ./cmd/posthorn -count=1 -run '^TestManualPages$' -manual "$share/man/man1" >"$BUILD/manual.log" 2>&1 || { cat "$BUILD/manual.log"; exit 1; }
	gzip -9n "$share"/man/man1/*.1

	cp deploy/package/copyright deploy/posthorn.yml README.md docs/*.md "$doc/"
	cp deploy/dovecot-2.3.conf deploy/dovecot-2.4.conf deploy/grafana.json deploy/prometheus-alerts.yml "$doc/examples/"
	cp deploy/package/mailapp-config.yml.example deploy/package/contextsets.yml.example "$doc/examples/"
	gzip -9n <CHANGELOG.md >"$doc/NEWS.md.gz"
	{
		printf 'posthorn (%s) unstable; urgency=medium\n\n  * NEWS.md.gz says what has changed.\n\n' "$VERSION"
		printf ' -- The Posthorn authors <packages@posthorn.invalid>  %s\n' "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
	} | gzip -9n >"$doc/changelog.gz"
}

container() { # its files, and the Containerfile without the stage that builds them
	dir="$out/container-$arch"
	rm -rf "$dir"
	install -d "$dir/rootfs/usr/bin" "$dir/rootfs/usr/share/doc/posthorn" "$dir/rootfs/etc/ssl/certs" "$dir/rootfs/etc/posthorn" "$dir/rootfs/var/lib"
	install -d -m 0700 "$dir/state/posthorn"
	install -d -m 1777 "$dir/rootfs/tmp"
	cp "$BUILD/posthorn-$arch" "$dir/rootfs/usr/bin/posthorn"
	cp LICENSE "$doc/third-party-licences.gz" "$dir/rootfs/usr/share/doc/posthorn/"
	cp -L /etc/ssl/certs/ca-certificates.crt "$dir/rootfs/etc/ssl/certs/" # of Debian's ca-certificates
	cp deploy/package/container.yml "$dir/rootfs/etc/posthorn/posthorn.yml"
	sed '/^FROM .* AS build$/,/^$/d; s/ --from=build / /' deploy/Containerfile >"$dir/Dockerfile"
	find "$dir" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

case " $formats " in *" deb "* | *" rpm "*) documents ;; esac
find "$BUILD" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

for arch in ${ARCHES:-amd64 arm64}; do
	for format in $formats; do
		case $format in
		container) container ;;
		*) ARCH=$arch "${NFPM:-nfpm}" package --config deploy/package/nfpm.yaml --packager "$format" --target "$out" ;;
		esac
	done
done
rm -rf "$BUILD"
