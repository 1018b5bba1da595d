# Processes of the cluster: each is known by its id and start time, so that an id that was given to
# another process is never hit, and carries SLUICE_CLUSTER_OF=<directory> in its environment.

begun=$(date +%s%N)
say() {
    local passed=$((($(date +%s%N) - begun) / 1000000))
    printf 'cluster: [%d.%03d s] %s\n' $((passed / 1000)) $((passed % 1000)) "$*" >&2
}
fail() {
    say "$*"
    exit 1
}

# within SECONDS WHAT COMMAND…: waits until COMMAND succeeds.
within() {
    local end=$((SECONDS + $1)) what=$2 last
    shift 2
    until last=$("$@" 2>&1); do
        [ $SECONDS -lt "$end" ] || fail "in vain: $what (logs in $dir/log): $last"
        sleep 0.1
    done
    say "$what"
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

started() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null; }

# spawn NAME COMMAND…: its own session, a log, and a record.
spawn() {
    local name=$1
    shift
    SLUICE_CLUSTER_OF=$dir setsid "$@" >>"$dir/log/$name.log" 2>&1 </dev/null &
    echo "$! $(started $!)" >"$dir/pid/$name"
}

# running NAME: prints the id if that very process still runs.
running() {
    local pid start
    read -r pid start 2>/dev/null <"$dir/pid/$1" && [ "$(started "$pid")" = "$start" ] &&
        ! grep -q '^State:.Z' "/proc/$pid/status" && echo "$pid"
}
stopped() { ! running "$1" >/dev/null; }

# end NAME SIGNAL: an API server with open watches would take a minute to end by itself.
end() {
    local name=$1 signal=$2 pid patience=$((SECONDS + 10))
    pid=$(running "$name") || { say "$name does not run"; return 0; }
    kill "-$signal" "$pid"
    until stopped "$name" || [ $SECONDS -ge $patience ]; do sleep 0.05; done
    stopped "$name" || kill -KILL "$pid"
    within 10 "$name ended" stopped "$name"
}

# Ids of all that carry the mark, but for this process and those above it.
marked() {
    local environ pid above=" $BASHPID $$ " up=$$
    while [ "$up" -gt 1 ]; do
        up=$(awk '/^PPid:/ {print $2}' "/proc/$up/status")
        above+="$up "
    done
    grep -lsz "^SLUICE_CLUSTER_OF=$dir\$" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid environ; do
        [[ $above == *" $pid "* ]] || echo "$pid"
    done
}
none_marked() {
    local left
    left=$(marked)
    [ -n "$left" ] || return 0
    kill -9 $left 2>/dev/null
    return 1
}

# SIGKILL for all. A node's first process takes its whole process namespace along, containers
# included, and is gone only when they are.
end_all() {
    local file pid
    for file in "$dir"/pid/*; do
        [ -e "$file" ] || continue
        pid=$(running "$(basename "$file")") && kill -9 "$pid" 2>/dev/null || true
    done
    within 30 "every process ended" none_marked
}

# fill TEMPLATE: prints it with the value of the caller's variable x for each @x@.
fill() {
    local fill_text fill_name
    fill_text=$(<"$here/templates/$1")
    for fill_name in $(grep -o '@[a-z_]*@' <<<"$fill_text" | tr -d @ | sort -u); do
        fill_text=${fill_text//"@$fill_name@"/"${!fill_name}"}
    done
    echo "$fill_text"
}
