package main

// Enforces NetworkPolicy (networking.k8s.io/v1): watches namespaces, pods and policies, renders one
// nft table a node (see rules.go) and loads it in that node's network namespace.

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// retry is the pause before a watch is opened anew and before a table that did not load is tried again.
const retry = 500 * time.Millisecond

type enforcer struct {
	client *http.Client
	api    string
	// namespaces is a directory with the network namespace of each node under its name.
	namespaces string
	mutex      sync.Mutex
	view       view
	dirty      chan struct{}
}

func netpol(api, pki, namespaces string) error {
	certificate, err := tls.LoadX509KeyPair(pki+"/admin.crt", pki+"/admin.key")
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(pki + "/ca.crt")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}}}
	e := &enforcer{client: &http.Client{Transport: transport}, api: "https://" + api, namespaces: namespaces, dirty: make(chan struct{}, 1)}
	go follow(e, "/api/v1/namespaces", &e.view.namespaces)
	go follow(e, "/api/v1/pods", &e.view.pods)
	go follow(e, "/apis/networking.k8s.io/v1/networkpolicies", &e.view.policies)
	e.enforce()
	return nil
}

// follow keeps `objects` equal to what the API server has: a list, then a watch from there, and
// again from the list whenever the watch ends.
func follow[T named](e *enforcer, path string, objects *map[string]T) {
	for ; ; time.Sleep(retry) {
		var list struct {
			Metadata struct{ ResourceVersion string }
			Items    []T
		}
		if err := e.read(path, func(decoder *json.Decoder) error { return decoder.Decode(&list) }); err != nil {
			continue
		}
		e.change(func() {
			*objects = map[string]T{}
			for _, object := range list.Items {
				(*objects)[object.key()] = object
			}
		})
		e.read(path+"?watch=true&resourceVersion="+list.Metadata.ResourceVersion, func(decoder *json.Decoder) error {
			for {
				var event struct {
					Type   string
					Object T
				}
				if err := decoder.Decode(&event); err != nil {
					return err
				}
				switch event.Type {
				case "ADDED", "MODIFIED":
					e.change(func() { (*objects)[event.Object.key()] = event.Object })
				case "DELETED":
					e.change(func() { delete(*objects, event.Object.key()) })
				default: // an error: too old, so list again
					return nil
				}
			}
		})
	}
}

func (e *enforcer) read(path string, use func(*json.Decoder) error) error {
	response, err := e.client.Get(e.api + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return use(json.NewDecoder(response.Body))
}

func (e *enforcer) change(edit func()) {
	e.mutex.Lock()
	edit()
	e.mutex.Unlock()
	select {
	case e.dirty <- struct{}{}:
	default:
	}
}

// enforce loads a node's table whenever it changed, and tries again what did not load.
func (e *enforcer) enforce() {
	loaded := map[string]string{}
	for {
		select {
		case <-e.dirty:
		case <-time.After(retry):
		}
		e.mutex.Lock()
		tables := e.view.tables()
		e.mutex.Unlock()
		for node, table := range tables {
			if loaded[node] == table {
				continue
			}
			load := exec.Command("nsenter", "--net="+filepath.Join(e.namespaces, node), "nft", "-f", "-")
			load.Stdin = strings.NewReader(table)
			if output, err := load.CombinedOutput(); err != nil {
				fmt.Printf("%s: %v: %s\n%s", node, err, output, table)
				continue
			}
			loaded[node] = table
		}
	}
}
