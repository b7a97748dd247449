#!/usr/bin/env bash
# Makes the environment in .venv from the locks beside this file, every package checked by its hash.
#   deploy/environment.sh runtime    what the product needs
#   deploy/environment.sh dev        that, and what lint, types and tests need
# What is missing on the system is installed when we are root on Debian, and named when we are not.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?usage: deploy/environment.sh runtime|dev}
case $kind in
    runtime) lock=deploy/requirements.lock ;;
    dev) lock=deploy/requirements-dev.lock ;;
    *) echo "environment.sh: '$kind' is not runtime or dev" >&2; exit 2 ;;
esac
python=${PYTHON:-python3}

system_packages() {  # name what is missing, or install it
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing from Debian: $*" >&2
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        echo "environment.sh: this system lacks: $* (as root: apt-get install $*)" >&2
        exit 1
    fi
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "environment.sh: $python is older than 3.11; name another with PYTHON=…" >&2; exit 2; }
if [ ! -x .venv/bin/pip ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || system_packages python3-venv
    "$python" -m venv .venv
fi
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/uv.lock.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r "$lock"
# Without build isolation: the build back end comes from the lock as well.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
# opencv-python links against libraries of a desktop that a server does not have.
.venv/bin/python -c 'import cv2' 2>/dev/null || system_packages libgl1 libglib2.0-0
.venv/bin/python -c 'import cv2'
if [ "$kind" = dev ]; then  # the real parts that tests talk to
    [ -x /usr/sbin/mosquitto ] || system_packages mosquitto
    command -v faketime >/dev/null || system_packages faketime
    command -v openssl >/dev/null || system_packages openssl
    [ -d /usr/lib/postgresql ] || system_packages postgresql
    command -v mvn >/dev/null || system_packages maven
    command -v java >/dev/null || system_packages openjdk-17-jre-headless
    kafka=.venv/kafka pom=tests/plant/kafka-pom.xml
    if ! cmp -s "$pom" "$kafka/pom.xml"; then
        rm -rf "$kafka"
        mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$PWD/$kafka/lib"
        cp "$pom" "$kafka/pom.xml"  # last: it says that all of its jars are there
    fi
    # AsyncAPI's own validator. No package runs code of its own when it is installed.
    node=.venv/node npm_lock=tests/plant/asyncapi/package-lock.json
    if ! cmp -s "$npm_lock" "$node/installed.json"; then
        rm -rf "$node"
        mkdir "$node"
        cp tests/plant/asyncapi/package*.json "$node"
        PATH=$PWD/.venv/bin:$PATH npm ci --prefix "$node" --ignore-scripts --no-audit --no-fund \
            --loglevel=error >/dev/null
        cp "$npm_lock" "$node/installed.json"  # last, as above
    fi
fi
