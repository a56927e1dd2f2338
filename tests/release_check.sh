#!/bin/sh
# release_check.sh: whether the commit that is checked out can be tagged as a release; every reason why not.
# The tag is psik.__version__, and the top of CHANGELOG.md says that version and its date.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
status=0

refuse() {
	echo "release-check: $*" >&2
	status=1
}

version=$("$python" psik.py --version)
test -z "$(git status --porcelain)" || refuse "what is here is not what is committed: see git status"
for tag in "$version" "v$version"; do
	test -z "$(git tag --list "$tag")" || refuse "$tag is a tag already: raise __version__ in psik.py"
done
top=$(grep -m 1 '^## ' CHANGELOG.md)
case $top in
"## $version, "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]) ;;
"## $version, "*) refuse "CHANGELOG.md has no date for $version, but: $top" ;;
*) refuse "CHANGELOG.md begins with another version than $version: $top" ;;
esac
"$python" templates/embed.py --check >/dev/null || refuse "the templates in psik.py are not those of templates/: make embed"
test "$status" -ne 0 || echo "$version can be tagged: git tag -s $version"
exit "$status"
