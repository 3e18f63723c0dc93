#!/bin/sh
# Packs the static binary of one target: a tarball and a Debian package below target/dist, the same bytes each time.
set -eu
target=$1
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
case $target in
    x86_64-*) arch=amd64 ;;
    aarch64-*) arch=arm64 ;;
    armv7-*) arch=armhf ;;
    *) arch=${target%%-*} ;;
esac
out=$PWD/target/dist
root=$out/root-$target
rm -rf "$root"
mkdir -p "$root"

# pack FILE DIRECTORY: names in order, nobody's files, one time.
pack() {
    tar -C "$2" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - . | gzip -9n > "$1"
}

name=litestream-$version-${target%%-*}-linux
plain=$root/$name
mkdir -p "$plain/man/completions"
install -m 755 "target/$target/release/litestream" "$plain/"
install -m 644 README.md LICENSE CHANGELOG.md "$plain/"
for file in man/*.[15] man/litestream.*; do install -m 644 "$file" "$plain/man/"; done
install -m 644 man/completions/* "$plain/man/completions/"
tar -C "$root" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$name" |
    gzip -9n > "$out/$name.tar.gz"

data=$root/data
install -D -m 755 "target/$target/release/litestream" "$data/usr/bin/litestream"
for page in man/*.[15]; do
    section=${page##*.}
    mkdir -p "$data/usr/share/man/man$section"
    gzip -9nc "$page" > "$data/usr/share/man/man$section/${page##*/}.gz"
done
install -D -m 644 man/litestream.service "$data/lib/systemd/system/litestream.service"
install -D -m 644 man/completions/litestream.bash "$data/usr/share/bash-completion/completions/litestream"
install -D -m 644 man/completions/_litestream "$data/usr/share/zsh/vendor-completions/_litestream"
install -D -m 644 man/completions/litestream.fish "$data/usr/share/fish/vendor_completions.d/litestream.fish"
install -D -m 644 man/litestream.yml "$data/usr/share/doc/litestream/examples/litestream.yml"
install -D -m 644 man/litestream.rules.yml "$data/usr/share/doc/litestream/examples/litestream.rules.yml"
install -D -m 644 LICENSE "$data/usr/share/doc/litestream/copyright"
control=$root/control
mkdir -p "$control"
cat > "$control/control" <<END
Package: litestream
Version: $version
Architecture: $arch
Maintainer: the litestream authors <litestream@localhost>
Installed-Size: $(du -sk --apparent-size "$data" | cut -f1)
Section: database
Priority: optional
Recommends: ca-certificates
Description: continuous backup of live SQLite databases to NATS
 Follows SQLite databases while applications write to them, stores each change
 in a NATS JetStream Object Store bucket or in a directory, and restores any of
 them exactly to the latest or to an earlier commit.
END
pack "$root/control.tar.gz" "$control"
pack "$root/data.tar.gz" "$data"
echo 2.0 > "$root/debian-binary"
package=$out/litestream_${version}_$arch.deb
rm -f "$package"
(cd "$root" && ar rcD "$package" debian-binary control.tar.gz data.tar.gz)
rm -rf "$root"
