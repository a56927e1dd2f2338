#compdef psik
# Completion of psik in zsh, made by `psik.py install`.
local -a found
local flags
if ((CURRENT == 2)); then
	found=(
@described@
	)
	_describe command found
elif [[ $words[CURRENT] == -* ]]; then
	case $words[2] in
@options@
	esac
	compadd -- ${=flags}
else
	case $words[2] in
@jobs@
		compadd last ${(f)"$($words[1] ls -n 20 2>/dev/null |
			sed -n 's/^\([0-9][0-9.]*\).*/\1/p')"} ;;
	*) _files ;;
	esac
fi
