#!/bin/sh
# install_deps.sh FOLDER: Python environments, and packages for node, that the tests and checks use,
# made anew where the list of packages has changed.  What runs psik.py itself has the newest Python
# found; so have generated clients, which ask for a new one.
set -eu
deps=$1
python=${PYTHON:-python3}
newest=$("$python" "$(dirname "$0")/every_python.py" --newest)
mkdir -p "$deps"

environment() { # NAME PYTHON PACKAGE...
	name=$1
	test "$(cat "$deps/$name/done" 2>/dev/null)" = "$*" && return
	shift
	"$1" -m venv --clear "$deps/$name"
	made=$1
	shift
	"$deps/$name/bin/python" -m pip -q install --disable-pip-version-check "$@"
	echo "$name $made $*" >"$deps/$name/done"
}

node_packages() { # PACKAGE...
	test "$(cat "$deps/node/done" 2>/dev/null)" = "$*" && return
	node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || {
		echo "no node 20 or newer: its clients are left out" >&2
		return 0
	}
	rm -rf "$deps/node"
	mkdir -p "$deps/node"
	npm install --silent --no-audit --no-fund --ignore-scripts --save-exact --prefix "$deps/node" "$@"
	echo "$*" >"$deps/node/done"
}

environment lint "$python" 'mypy==1.11.2' 'coverage==7.6.1' 'radon==6.0.1' 'ruff==0.6.9' 'vulture==2.13'
environment psik-1.2.2 "$python" 'psik==1.2.2'
environment receiver "$python" 'flask==3.0.3'
environment build "$newest" 'setuptools==75.1.0' 'wheel==0.44.0'
environment openapi "$python" 'openapi-python-client==0.21.5' 'schemathesis==3.36.0' \
	'hypothesis==6.112.0' 'click==8.1.7'
environment biscuit "$newest" 'biscuit-python==0.4.0' 'coverage==7.6.1'
environment clients "$newest" 'openapi-python-client==0.29.1' 'ruff==0.17.6' \
	'datamodel-code-generator==0.89.0' 'pydantic==2.14.4' 'schemathesis==4.32.5' \
	'hypothesis==6.170.17' 'httpx-sse==0.4.3' 'playwright==1.65.2' 'aiohttp==3.14.5' \
	'requests==2.34.2'
environment gateway "$newest" 'jsonschema==4.26.0' 'hypothesis-jsonschema==0.23.1' \
	'hypothesis==6.112.0' 'pyjwt[crypto]==2.15.1' 'authlib==1.9.10' 'httpx==0.28.1' 'pyyaml==6.0.4'
node_packages 'openapi-typescript@7.13.0' 'openapi-fetch@0.17.0' 'typescript@5.9.3' \
	'@redocly/cli@2.77.0' 'axe-core@4.14.1'
test -e "$deps/dataclasses.py" || { # for Python 3.6
	"$python" -m pip -q download --disable-pip-version-check --no-deps --only-binary :all: \
		--python-version 3.6 -d "$deps/wheel" 'dataclasses==0.8'
	"$python" -m zipfile -e "$deps"/wheel/dataclasses-*.whl "$deps/wheel"
	cp "$deps/wheel/dataclasses.py" "$deps/"
}
