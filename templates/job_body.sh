jobndx=$1
exec >>@log@/submit."$1" 2>&1
psik_payload=
psik_stopped=
psik_reason=
psik_code=0

# record STATE INFO: append one transition to the history.
record() {
	@reporter@ reached -- @base@ "$jobndx" "$1" "$2" && return
	flock -w 60 @status@ date "+%s.%3N,$jobndx,$1,$2" >>@status@ ||
		date "+%s.%3N,$jobndx,$1,$2" >>@status@
}

# finish STATE INFO: the last transition; its reason, where there is one, stands in log/.
finish() {
	test -z "$psik_reason" || echo "$psik_reason" >@log@/reason."$jobndx"
	record "$1" "$2"
	exit "$2"
}

# parts: what is alive of the payload: the processes of its group, less timeout(1), which leads it; and,
# where this shell leads a session, -N for each other group N that the payload made in it.
parts() {
	pgrep -g "$psik_payload" | grep -vx "$psik_payload"
	test "$(ps -o sid= -p $$ | tr -d ' ')" != $$ ||
		ps -o pgid= -s $$ | grep -vw -e $$ -e "$psik_payload" | sort -u | sed 's/^ */-/'
}
send() {
	for psik_part in $(parts); do
		kill -s "$1" -- "$psik_part" 2>/dev/null
	done
}

# A handler runs only while the shell waits, so the payload runs in the background.
stop() {
	psik_caught=yes
	psik_stopped=$1
	test -n "$psik_payload" || return
	test -n "$(parts)" || kill "$psik_payload" 2>/dev/null # timeout(1) has only begun
	send TERM
	for psik_fifth in $(seq @grace_fifths@); do
		test -n "$(parts)" || return
		sleep 0.2
	done
	send KILL
}
pass_on() {
	psik_caught=yes
	test -z "$psik_payload" || pkill "-$1" -P "$psik_payload"
}
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 152' XCPU
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2

test "$nodes" != ask || nodes=$(echo "$LSB_MCPU_HOSTS" | awk '{ print NF / 2 }')
test "$jobid" != own || jobid=$$
test "$jobid" != ask || jobid=$(flock -w 60 @status@ sed -n "s/^[0-9.]*,$jobndx,queued,//p" @status@)
record active "$jobid"
cd @directory@ || { psik_reason='its directory is gone'; finish failed 1; }

if test -z "$psik_stopped"; then
	env \
		@environment@ \
		mpirun="$mpirun" nodes="$nodes" base=@base@ jobndx="$jobndx" jobid="$jobid" psik=@psik@ rc=@rc@ \
		@timeout@ -k @grace_s@ "$psik_walltime_s" @run@ \
		</dev/null >@log@/stdout."$jobndx" 2>@log@/stderr."$jobndx" &
	psik_payload=$!
	echo "$psik_payload" >@log@/pid."$jobndx"
	test -z "$psik_stopped" || stop "$psik_stopped"

	psik_caught=no
	wait "$psik_payload"
	psik_code=$?
	while test "$psik_caught" = yes; do # a signal cut the wait short
		psik_caught=no
		wait "$psik_payload"
		psik_again=$?
		test "$psik_again" -eq 127 || psik_code=$psik_again
	done
	case $psik_code in # a USR1 or USR2 for the whole job kills timeout(1), but not a payload that handles it
	138 | 140) while test -n "$(parts)"; do sleep 1; done ;;
	esac
fi

# A scheduler that ends a job signals all its processes, and the payload may be gone before this shell is told.
test "$psik_walltime_s" -ne 0 || sleep 0.1

# At the walltime timeout(1) says 124, or dies of the KILL that it sends.  A payload may end so
# too, but not after the whole walltime.
if test "$psik_walltime_s" -ne 0 && { test "$psik_code" -eq 124 || test "$psik_code" -eq 137; } &&
	test -n "$(find @log@/pid."$jobndx" -mmin +@nearly_min@)"; then
	test "$psik_code" -ne 124 || psik_code=143
	stop "$psik_code"
	psik_reason='its walltime of @duration_min@ min was over'
fi

if test -n "$psik_stopped"; then
	sed -n "/,$jobndx,queued,/,\$p" @status@ | grep -q ',0,canceled,' && finish canceled "$psik_stopped"
	test -n "$psik_reason" || psik_reason="it was stopped by signal $((psik_stopped - 128))"
	finish failed "$psik_stopped"
fi
test "$psik_code" -ne 0 || finish completed 0
finish failed "$psik_code"
