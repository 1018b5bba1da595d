package main

// What NetworkPolicies mean in nft's language. Pure: from a view of the cluster to one table a node.
// A pod that a policy selects has a chain for the direction; what no rule returns from is dropped.

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

type named interface{ key() string }

type metadata struct {
	Name, Namespace string
	Labels          map[string]string
}

func (m metadata) key() string { return m.Namespace + "/" + m.Name }

type namespace struct {
	metadata `json:"metadata"`
}

type pod struct {
	metadata `json:"metadata"`
	Spec     struct {
		NodeName    string
		HostNetwork bool
		Containers  []struct {
			Ports []struct {
				Name, Protocol string
				ContainerPort  int
			}
		}
	}
	Status struct{ PodIP, Phase string }
}

type policy struct {
	metadata `json:"metadata"`
	Spec     struct {
		PodSelector     selector
		PolicyTypes     []string
		Ingress, Egress []rule
	}
}

type selector struct {
	MatchLabels      map[string]string
	MatchExpressions []struct {
		Key, Operator string
		Values        []string
	}
}

type rule struct {
	From, To []peer
	Ports    []port
}

type peer struct {
	PodSelector, NamespaceSelector *selector
	IPBlock                        *struct {
		CIDR   string
		Except []string
	}
}

type port struct {
	Protocol string
	Port     any // a number, a name, or nil for all ports of the protocol
	EndPort  int
}

type view struct {
	namespaces map[string]namespace
	pods       map[string]pod
	policies   map[string]policy
}

func (s *selector) matches(labels map[string]string) bool {
	for key, value := range s.MatchLabels {
		if actual, ok := labels[key]; !ok || actual != value {
			return false
		}
	}
	for _, expression := range s.MatchExpressions {
		value, ok := labels[expression.Key]
		among := ok && slices.Contains(expression.Values, value)
		holds := map[string]bool{"In": among, "NotIn": !among, "Exists": ok, "DoesNotExist": !ok}
		if !holds[expression.Operator] {
			return false
		}
	}
	return true
}

// reachable are the pods with an address of their own, in a stable order.
func (v *view) reachable() []pod {
	var pods []pod
	for _, p := range v.pods {
		if p.Status.PodIP != "" && !p.Spec.HostNetwork && p.Status.Phase != "Succeeded" && p.Status.Phase != "Failed" {
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, func(a, b pod) int { return strings.Compare(a.key(), b.key()) })
	return pods
}

// selected are the pods that a peer of a policy in `home` names.
func (v *view) selected(home string, p peer) []pod {
	return slices.DeleteFunc(v.reachable(), func(candidate pod) bool {
		if p.NamespaceSelector == nil {
			if candidate.Namespace != home {
				return true
			}
		} else if space, ok := v.namespaces["/"+candidate.Namespace]; !ok || !p.NamespaceSelector.matches(space.Labels) {
			return true
		}
		return p.PodSelector != nil && !p.PodSelector.matches(candidate.Labels)
	})
}

// matches gives one nft match for each port of a rule; `target` resolves ports that have a name.
func matches(ports []port, target pod) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	var all []string
	for _, p := range ports {
		protocol := "tcp"
		if p.Protocol != "" {
			protocol = strings.ToLower(p.Protocol)
		}
		switch number := p.Port.(type) {
		case nil:
			all = append(all, "meta l4proto "+protocol)
		case float64:
			match := protocol + " dport " + strconv.Itoa(int(number))
			if p.EndPort > 0 {
				match += "-" + strconv.Itoa(p.EndPort)
			}
			all = append(all, match)
		case string:
			for _, container := range target.Spec.Containers {
				for _, offered := range container.Ports {
					if offered.Name == number {
						all = append(all, protocol+" dport "+strconv.Itoa(offered.ContainerPort))
					}
				}
			}
		}
	}
	return all
}

// allow renders one rule of a policy in `home` for the pod `self`. `side` is the peer's side:
// saddr for ingress, daddr for egress.
func (v *view) allow(home, side string, peers []peer, ports []port, self pod) []string {
	var lines []string
	add := func(address string, target pod) {
		for _, match := range matches(ports, target) {
			lines = append(lines, strings.TrimSpace(address+" "+match)+" return")
		}
	}
	if len(peers) == 0 {
		add("", self)
	}
	for _, p := range peers {
		if p.IPBlock != nil {
			address := "ip " + side + " " + p.IPBlock.CIDR
			if len(p.IPBlock.Except) > 0 {
				address += " ip " + side + " != { " + strings.Join(p.IPBlock.Except, ", ") + " }"
			}
			add(address, self)
			continue
		}
		for _, other := range v.selected(home, p) {
			target := self // a named port is the port of whoever is called
			if side == "daddr" {
				target = other
			}
			add("ip "+side+" "+other.Status.PodIP, target)
		}
	}
	return lines
}

// chains renders what is allowed into and out of `self`; nil where no policy selects it.
func (v *view) chains(self pod) (ingress, egress []string) {
	var keys []string
	for key := range v.policies {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		p := v.policies[key]
		if p.Namespace != self.Namespace || !p.Spec.PodSelector.matches(self.Labels) {
			continue
		}
		if slices.Contains(p.Spec.PolicyTypes, "Ingress") {
			ingress = append(ingress, "# "+p.Name)
			for _, r := range p.Spec.Ingress {
				ingress = append(ingress, v.allow(p.Namespace, "saddr", r.From, r.Ports, self)...)
			}
		}
		if slices.Contains(p.Spec.PolicyTypes, "Egress") {
			egress = append(egress, "# "+p.Name)
			for _, r := range p.Spec.Egress {
				egress = append(egress, v.allow(p.Namespace, "daddr", r.To, r.Ports, self)...)
			}
		}
	}
	return ingress, egress
}

// tables renders the whole table of every node that has pods.
func (v *view) tables() map[string]string {
	type node struct{ chains, ingress, egress []string }
	nodes := map[string]*node{}
	for _, self := range v.reachable() {
		n := nodes[self.Spec.NodeName]
		if n == nil {
			n = &node{}
			nodes[self.Spec.NodeName] = n
		}
		chain := func(prefix string, lines []string, jumps *[]string) {
			if lines == nil {
				return
			}
			name := prefix + strings.ReplaceAll(self.Status.PodIP, ".", "_")
			n.chains = append(n.chains, fmt.Sprintf("chain %s { # %s\n%s\ndrop\n}", name, self.key(), strings.Join(lines, "\n")))
			*jumps = append(*jumps, self.Status.PodIP+" : goto "+name)
		}
		ingress, egress := v.chains(self)
		chain("in_", ingress, &n.ingress)
		chain("out_", egress, &n.egress)
	}
	tables := map[string]string{}
	for name, n := range nodes {
		// Adding before deleting makes the deletion succeed the first time too; the file is one transaction.
		table := "table ip netpol\ndelete table ip netpol\ntable ip netpol {\n" + strings.Join(n.chains, "\n")
		table += "\nchain out {\n" + verdicts("saddr", n.egress) + "}\nchain in {\n" + verdicts("daddr", n.ingress) + "}\n"
		// After kube-proxy's translation, so rules see pods' addresses and not Services'.
		table += "chain forward {\ntype filter hook forward priority 10; policy accept;\n" +
			"ct state established,related accept\njump out\njump in\n}\n}\n"
		tables[name] = table
	}
	return tables
}

func verdicts(side string, jumps []string) string {
	if len(jumps) == 0 {
		return ""
	}
	return "ip " + side + " vmap { " + strings.Join(jumps, ", ") + " }\n"
}
