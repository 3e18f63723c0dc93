#!/bin/sh
# Packs a static binary with what belongs to it: a tarball and a Debian package, the same bytes each time and everywhere.
#   dist.sh TARGET BINARY OUTPUT, with SOURCE_DATE_EPOCH, at the top of the sources
set -eu
umask 022
export LC_ALL=C
target=$1
binary=$2
out=$3
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
case $target in
    x86_64-*) arch=amd64 ;;
    aarch64-*) arch=arm64 ;;
    armv7-*) arch=armhf ;;
    *) arch=${target%%-*} ;;
esac
root=$out/root-$target
rm -rf "$root"
mkdir -p "$root"

# pack FILE DIRECTORY NAME: names in order, nobody's files, one time, whatever the umask of the sources was.
pack() {
    tar -C "$2" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode=u+rwX,go+rX,go-w -cf - "$3" | gzip -9n > "$1"
}

name=litestream-$version-${target%%-*}-linux
plain=$root/$name
mkdir -p "$plain/man/completions"
install -m 755 "$binary" "$plain/litestream"
install -m 644 README.md LICENSE CHANGELOG.md "$plain/"
for file in man/*; do test -d "$file" || install -m 644 "$file" "$plain/man/"; done
install -m 644 man/completions/* "$plain/man/completions/"
pack "$out/$name.tar.gz" "$root" "$name"

data=$root/data
doc=$data/usr/share/doc/litestream
install -D -m 755 "$binary" "$data/usr/bin/litestream"
for page in man/*.[157]; do
    section=${page##*.}
    mkdir -p "$data/usr/share/man/man$section"
    gzip -9nc "$page" > "$data/usr/share/man/man$section/${page##*/}.gz"
done
install -D -m 644 man/litestream.service "$data/usr/lib/systemd/system/litestream.service"
install -D -m 644 man/completions/litestream.bash "$data/usr/share/bash-completion/completions/litestream"
install -D -m 644 man/completions/_litestream "$data/usr/share/zsh/vendor-completions/_litestream"
install -D -m 644 man/completions/litestream.fish "$data/usr/share/fish/vendor_completions.d/litestream.fish"
install -D -m 644 man/litestream.yml "$doc/examples/litestream.yml"
install -D -m 644 man/litestream.rules.yml "$doc/examples/litestream.rules.yml"
install -D -m 644 README.md "$doc/README.md"
for plot in man/*.svg; do install -D -m 644 "$plot" "$doc/$plot"; done
install -D -m 644 LICENSE "$doc/copyright"
gzip -9nc CHANGELOG.md > "$doc/changelog.gz"

control=$root/control
mkdir -p "$control"
# As dpkg-gencontrol counts: each file in whole KiB, and one for anything else. A file system's own idea of it differs.
size=$(find "$data" -type f -printf '%s\n' -o -printf '1\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
cat > "$control/control" <<END
Package: litestream
Version: $version
Architecture: $arch
Maintainer: the litestream authors <litestream@localhost>
Installed-Size: $size
Section: database
Priority: optional
Recommends: ca-certificates
Description: continuous backup of live SQLite databases to NATS
 Follows SQLite databases while applications write to them, stores each change
 in a NATS JetStream Object Store bucket or in a directory, and restores any of
 them exactly to the latest or to an earlier commit.
END
(cd "$data" && find . -type f -printf '%P\n' | sort | xargs md5sum) > "$control/md5sums"
# Without a configuration there is nothing to start; what runs goes on with the new program.
cat > "$control/postinst" <<'END'
#!/bin/sh
set -e
if test "$1" = configure && test -d /run/systemd/system; then
    systemctl daemon-reload
    test -z "$2" || systemctl try-restart litestream.service
fi
END
cat > "$control/prerm" <<'END'
#!/bin/sh
set -e
if test "$1" = remove && test -d /run/systemd/system; then
    systemctl disable --now litestream.service
fi
END
chmod 755 "$control/postinst" "$control/prerm"
pack "$root/control.tar.gz" "$control" .
pack "$root/data.tar.gz" "$data" .
echo 2.0 > "$root/debian-binary"
package=$out/litestream_${version}_$arch.deb
rm -f "$package"
(cd "$root" && ar rcD "$package" debian-binary control.tar.gz data.tar.gz)
rm -rf "$root"
