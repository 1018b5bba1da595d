# Certificates and kubeconfigs, ECDSA, with openssl.

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$dir/pki/$1.key"; }

authority() {
    key "$1"
    openssl req -x509 -new -key "$dir/pki/$1.key" -subj "/CN=$2" -days 3650 -out "$dir/pki/$1.crt" 2>/dev/null
}

# certificate NAME AUTHORITY SUBJECT [ALTERNATIVE-NAMES]
certificate() {
    local pki=$dir/pki
    key "$1"
    openssl req -new -key "$pki/$1.key" -subj "$3" 2>/dev/null |
        openssl x509 -req -CA "$pki/$2.crt" -CAkey "$pki/$2.key" -set_serial "0x$(openssl rand -hex 8)" -days 3650 \
            -out "$pki/$1.crt" -extfile <(
                echo keyUsage=digitalSignature
                echo extendedKeyUsage=serverAuth,clientAuth
                [ -z "${4:-}" ] || echo "subjectAltName=$4"
            ) 2>/dev/null
}

# kubeconfig CERTIFICATE OUT
kubeconfig() {
    local authority certificate key
    authority=$(base64 -w0 <"$dir/pki/ca.crt")
    certificate=$(base64 -w0 <"$dir/pki/$1.crt")
    key=$(base64 -w0 <"$dir/pki/$1.key")
    fill kubeconfig.yaml >"$2"
}

certificates() {
    chmod 700 "$dir/pki"
    authority ca kubernetes-ca
    authority front-proxy front-proxy-ca
    local name names=DNS:localhost,IP:127.0.0.1,IP:$host,IP:$services.0.1
    for name in kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local; do
        names+=,DNS:$name
    done
    certificate apiserver ca /CN=kube-apiserver "$names"
    certificate front-proxy-client front-proxy /CN=front-proxy-client
    certificate admin ca /O=system:masters/CN=admin
    # A controller manager outside this group may not untaint nodes unless each controller has an account.
    certificate kube-controller-manager ca /O=system:masters/CN=system:kube-controller-manager
    certificate kube-scheduler ca /CN=system:kube-scheduler
    # In this group kube-proxy works from the first moment on, before the roles are there.
    certificate kube-proxy ca /O=system:masters/CN=system:kube-proxy
    key service-account
    openssl ec -in "$dir/pki/service-account.key" -pubout -out "$dir/pki/service-account.pub" 2>/dev/null
    kubeconfig admin "$dir/kubeconfig"
    say "certificates are made"
}
