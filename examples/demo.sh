#!/bin/sh
# The demonstration behind `make demo`: build a Go web program with a classic Dockerfile, twice,
# look at the image, run the program from it and fetch its page. Needs no docker.
# State is under .demo/ in the project (or $PYBUILD_DEMO): delete that directory to start anew.
set -eu
cd "$(dirname "$0")/.."
. tools/packages.sh

demo=${PYBUILD_DEMO:-$PWD/.demo}
program=$PWD/.venv/bin/pybuild
python=$PWD/.venv/bin/python
image=youngqqcn/mywebdocker
server=
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

say() { printf '\n== %s\n' "$*"; }
show() { printf '\n$ pybuild %s\n' "$*"; pybuild "$@"; }
pybuild() { as_root env PYBUILD_ROOT="$demo/state" "$program" "$@"; }

cleanup() {
    [ -n "$server" ] || return 0
    $sudo kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap cleanup EXIT
trap 'exit 130' INT TERM

mkdir -p "$demo"

say "The base image"
if [ -n "$(pybuild images -q golang 2>/dev/null)" ]; then
    echo "golang is in the store already (from an earlier run of this demo)."
elif "$python" examples/http_check.py reachable https://registry-1.docker.io/v2/; then
    echo "A registry can be reached: pulling golang."
    pybuild pull golang
else
    echo "No registry can be reached: making golang from Debian packages instead"
    echo "(debian:bookworm by mmdebstrap, then examples/Dockerfiles/golang on top of it)."
    install_packages mmdebstrap
    as_root env PYBUILD_ROOT="$demo/state" "$python" examples/base_images.py \
        --pybuild "$program" golang
fi

say "Build examples/Dockerfiles/mywebdocker"
cd examples/Dockerfiles/mywebdocker
show --progress=classic -t "$image" .

say "The same again: everything comes from the cache"
show --progress=classic -t "$image" .
cd ../../..

say "What was made"
show history "$image"
show images

say "Run the program from the image and fetch its page"
port=$("$python" examples/http_check.py port)
printf '$ pybuild run --rm -e PORT=%s %s\n' "$port" "$image"
$sudo env PYBUILD_ROOT="$demo/state" "$program" run --rm -e "PORT=$port" "$image" &
server=$!
"$python" examples/http_check.py fetch "http://127.0.0.1:$port/"
"$python" examples/http_check.py fetch "http://127.0.0.1:$port/status"
cleanup

say "Done: built without docker, unchanged rebuild from the cache, page served from the image."
echo "State is in $demo; delete that directory to start anew."
