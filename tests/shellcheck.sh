#!/bin/sh
# Runs shellcheck over the templates as they lie, and over the scripts of tests/ and .ci/.
# Left out: what @name@ (a template's markup) and names that another file sets make it say; SC2086 and
# SC2048, for the templates that rc reads too cannot have double quotes; SC2317, for it does not see
# that a trap calls a function.
set -eu
cd "$(dirname "$0")/.."
shellcheck -s bash -e SC2154 templates/setup
find templates -type f ! -name '*.py' ! -name supervise ! -name setup ! -path '*/page/*' \
	! -name 'completion.*' \
	-exec shellcheck -s sh -e SC1008,SC1113,SC1128,SC2009,SC2034,SC2048,SC2086,SC2094,SC2154,SC2239,SC2288,SC2317 {} +
find tests -name '*.sh' -exec shellcheck {} +
shellcheck -s bash .ci/run
