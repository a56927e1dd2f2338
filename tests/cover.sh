#!/bin/sh
# cover.sh DEPS [NAME...]: line coverage of psik.py over the whole suite, or over some tests, with the
# command lines that tests start.  Not seen are the copies of psik.py that tests make, the isolated
# call in the job, what a signal or an exec ends, and what other Pythons and systems take.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
coverage=$root/$1/lint/bin
shift
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -m 1777 "$site/data"
chmod 755 "$site"
cat >"$site/sitecustomize.py" <<'END'
try:
    import coverage
    coverage.process_startup()
except ImportError:  # a peer's environment
    pass
END
cat >"$site/rc" <<END
[run]
parallel = true
sigterm = true
data_file = $site/data/.coverage
include = $root/psik.py
[report]
fail_under = 95
END
PYTHONPATH=$site COVERAGE_PROCESS_START=$site/rc "$coverage/python" tests/run.py "$@" || true
"$coverage/coverage" combine -q --rcfile="$site/rc" "$site/data"
"$coverage/coverage" report -m --rcfile="$site/rc"
