# Completion of psik in bash, made by `psik.py install`.
_psik() {
	local word=${COMP_WORDS[COMP_CWORD]} words='' flags=''
	if [[ $COMP_CWORD == 1 ]]; then
@commands@
	elif [[ $word == -* ]]; then
		case ${COMP_WORDS[1]} in
@options@
		esac
	else
		case ${COMP_WORDS[1]} in
@jobs@
			words="last $("${COMP_WORDS[0]}" ls -n 20 2>/dev/null |
				sed -n 's/^\([0-9][0-9.]*\).*/\1/p')"
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words $flags" -- "$word")
}
complete -o default -F _psik psik
