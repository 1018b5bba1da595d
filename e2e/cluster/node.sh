# Nodes: each in a mount, network and process namespace of its own, joined by a bridge of the host.
# Killing a node's first process ends all that runs on it, and its mounts go with it.

node_address() { echo "$network.$((10 + $1))"; }

check_machine() {
    local tool
    [ "$(id -u)" = 0 ] || fail "nodes need root; 'control-plane' does not"
    for tool in containerd runc ctr iptables nft /usr/lib/cni/bridge; do
        command -v "$tool" >/dev/null || fail "$tool is missing: run scripts/setup cluster"
    done
    [ -d /sys/fs/cgroup/memory ] ||
        fail "nodes work on cgroup v1 only (this machine has v2; boot with systemd.unified_cgroup_hierarchy=0)"
    [ -d /proc/sys/net/bridge ] || fail "the kernel's br_netfilter is not loaded: modprobe br_netfilter overlay"
    [ ! -e "/sys/class/net/$bridge" ] || fail "another cluster has the id $id: choose one with --id, or take that one down"
}

# The host's end: pods reach it at $host, and it reaches pods and, through node 1's kube-proxy, Services.
connect_host() {
    ip link add "$bridge" type bridge
    ip address add "$host/24" dev "$bridge"
    ip link set "$bridge" up
}

disconnect_host() {
    local link
    for link in $(ip -o link show type veth | sed -n "s/^[0-9]*: \($bridge-v[0-9]*\)@.*/\1/p"); do
        ip link delete "$link" 2>/dev/null || true # its namespace may just be going
    done
    # Routes go with it.
    [ ! -e "/sys/class/net/$bridge" ] || ip link delete "$bridge"
    within 10 "no cgroup is left" no_cgroups
}

cgroups() { find /sys/fs/cgroup -mindepth 2 -maxdepth 2 -type d -name "$bridge-node*"; }
no_cgroups() {
    local group
    for group in $(cgroups); do find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null; done
    [ -z "$(cgroups)" ]
}

make_cgroups() {
    local hierarchy group
    for hierarchy in /sys/fs/cgroup/*; do
        [ -L "$hierarchy" ] && continue
        group=$hierarchy/$bridge-node$1
        mkdir -p "$group"
        # A new cpuset is empty, and nothing can be started in an empty one.
        [ ! -e "$group/cpuset.cpus" ] || cp "$hierarchy/cpuset.cpus" "$group/cpuset.cpus"
        [ ! -e "$group/cpuset.mems" ] || cp "$hierarchy/cpuset.mems" "$group/cpuset.mems"
    done
}

start_node() {
    local n=$1 name=node$1 address cgroup=$bridge-node$1 node=$dir/node$1 file other pid
    address=$(node_address "$n")
    # Becomes /run on the node; its own things are in /run/node, /var/lib and /var/log in it too.
    mkdir -p "$node"/{node/{bin,cni},lib,log}
    make_cgroups "$n"
    certificate "$name" ca "/O=system:nodes/CN=system:node:$name" "DNS:$name,IP:$address"
    cp "$dir/pki/ca.crt" "$dir/pki/$name".{crt,key} "$node/node"
    kubeconfig "$name" "$node/node/kubelet.kubeconfig"
    kubeconfig kube-proxy "$node/node/kube-proxy.kubeconfig"
    for file in containerd.toml kubelet.yaml kube-proxy.yaml; do fill "$file" >"$node/node/$file"; done
    fill cni.conflist >"$node/node/cni/sluice.conflist"
    echo "nameserver $host" >"$node/node/resolv.conf"
    for other in $(seq "$nodes"); do
        [ "$other" = "$n" ] || echo "$pods.$other.0/24 via $(node_address "$other")"
    done >"$node/node/routes"

    spawn "$name" unshare --mount --net --pid --fork --kill-child --mount-proc --propagation slave \
        "$here/node-init" "$node" "$bin" "$name" "$address" "$host"
    pid=$(running "$name")
    within 5 "$name has a network" own_network "$pid"
    mkdir -p "$dir/nets"
    ln -sfn "/proc/$pid/ns/net" "$dir/nets/$name"
    ip link add "$bridge-v$n" type veth peer name eth0 netns "$pid"
    ip link set "$bridge-v$n" master "$bridge" up
    ip route add "$pods.$n.0/24" via "$address"
    [ "$n" != 1 ] || ip route add "$services.0.0/16" via "$address"
}
own_network() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }

node_exec() {
    local n=$1 pid
    shift
    pid=$(running "node$n") || fail "node$n does not run"
    pid=$(pgrep -P "$pid" | head -1)
    nsenter -t "$pid" --mount --net --pid -- "$@"
}

load() {
    local archive n name
    for n in $(seq "$nodes"); do
        within 30 "containerd of node$n is ready" ready_containerd "$n"
        for archive in "$@"; do
            name=$(node_exec "$n" ctr -n k8s.io images import - <"$archive" | sed -n 's/^unpacking \([^ ]*\) .*/\1/p')
            [ -n "$name" ] || fail "node$n found no image with a name in $archive"
            [ "$name" = "$(full_name "$name")" ] ||
                node_exec "$n" ctr -n k8s.io images tag --force "$name" "$(full_name "$name")" >/dev/null
        done
    done
}

# The kubelet asks for an image by its full name; an archive may have the short one.
full_name() {
    local first=${1%%/*}
    if [ "$first" = "$1" ]; then
        echo "docker.io/library/$1"
    elif [[ $first == *[.:]* || $first == localhost ]]; then
        echo "$1"
    else
        echo "docker.io/$1"
    fi
}

ready_containerd() { node_exec "$1" ctr version; }
ready_kubelet() { node_exec "$1" curl -sf --max-time 2 http://127.0.0.1:10248/healthz; }
ready_kube_proxy() { curl -sf --max-time 2 "http://$(node_address "$1"):10256/healthz"; }

# node-init starts again what ends, unless it is held.
stop_on_node() { signal_on_node TERM "$@"; }
kill_on_node() { signal_on_node KILL "$@"; }
signal_on_node() {
    local signal=$1 name=$2 n=$3 record=$dir/node$3/node/$2.pid
    touch "$dir/node$n/node/$name.hold"
    [ -e "$record" ] || return 0
    node_exec "$n" kill "-$signal" "$(<"$record")"
    within 60 "$name of node$n ended" test ! -e "$record"
}
start_on_node() {
    rm -f "$dir/node$2/node/$1.hold"
    within 30 "$1 of node$2 is ready" "ready_${1//-/_}" "$2"
}
