# etcd, kube-apiserver, kube-controller-manager and kube-scheduler, as processes of the host.

kubectl() { "$bin/kubectl" --kubeconfig "$dir/kubeconfig" "$@"; }

start_etcd() {
    spawn etcd "$bin/etcd" --name sluice --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
        --listen-peer-urls http://127.0.0.1:0
}

# The directory of a member that does not run is a snapshot: it takes no etcdctl. Killed, for ending takes it seconds
# that are not to be noticed.
save_etcd() {
    component kill etcd
    rm -rf "$dir/etcd.saved"
    cp -a "$dir/etcd" "$dir/etcd.saved"
    component start etcd
}
# An API server that went on meanwhile would tell what it remembers.
restore_etcd() {
    [ -d "$dir/etcd.saved" ] || fail "nothing was saved"
    component kill kube-apiserver
    component kill etcd
    rm -rf "$dir/etcd"
    cp -a "$dir/etcd.saved" "$dir/etcd"
    component start etcd
    component start kube-apiserver
}

start_kube_apiserver() {
    local pki=$dir/pki flags=()
    if [ "$audit_log" = yes ]; then
        # In megabytes, so that the file is never rotated in a test.
        flags+=(--audit-policy-file="$here/templates/audit-policy.yaml" --audit-log-path="$dir/log/audit.log"
            --audit-log-maxsize=100000)
    fi
    # Webhooks and API services are called at their pods' addresses (aggregator routing): the host has no kube-proxy.
    # shellcheck disable=SC2086
    spawn kube-apiserver "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" \
        --bind-address="${api%:*}" --advertise-address="${api%:*}" --secure-port="${api#*:}" \
        --service-cluster-ip-range="$services.0.0/16" --allow-privileged=true --profiling=false \
        --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$pki/service-account.pub" --service-account-signing-key-file="$pki/service-account.key" \
        --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
        --kubelet-preferred-address-types=InternalIP --enable-aggregator-routing=true \
        --proxy-client-cert-file="$pki/front-proxy-client.crt" --proxy-client-key-file="$pki/front-proxy-client.key" \
        --requestheader-client-ca-file="$pki/front-proxy.crt" --requestheader-allowed-names=front-proxy-client \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
        "${flags[@]}" $apiserver_flags
}

ready_kube_apiserver() {
    stopped kube-apiserver && fail "kube-apiserver ended: $(tail -3 "$dir/log/kube-apiserver.log")"
    curl -sf --max-time 2 --cacert "$dir/pki/ca.crt" --cert "$dir/pki/admin.crt" --key "$dir/pki/admin.key" "https://$api/readyz"
}

start_kube_controller_manager() {
    local pki=$dir/pki config=$dir/kube-controller-manager.kubeconfig
    kubeconfig kube-controller-manager "$config"
    spawn kube-controller-manager "$bin/kube-controller-manager" --kubeconfig="$config" \
        --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" \
        --bind-address=127.0.0.1 --secure-port="$(free_port)" --leader-elect=false \
        --service-account-private-key-file="$pki/service-account.key" --root-ca-file="$pki/ca.crt" \
        --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
        --flex-volume-plugin-dir="$dir/flex-volumes" --allocate-node-cidrs=false --kube-api-qps=300 --kube-api-burst=600 \
        --node-monitor-period=1s --node-monitor-grace-period=16s --horizontal-pod-autoscaler-sync-period=5s
}

start_kube_scheduler() {
    local config=$dir/kube-scheduler.kubeconfig
    kubeconfig kube-scheduler "$config"
    spawn kube-scheduler "$bin/kube-scheduler" --kubeconfig="$config" \
        --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" \
        --bind-address=127.0.0.1 --secure-port="$(free_port)" --leader-elect=false --kube-api-qps=300 --kube-api-burst=600
}

start_netpol() { spawn netpol "$bin/tool" netpol "$api" "$dir/pki" "$dir/nets"; }
