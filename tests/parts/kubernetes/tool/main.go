// tool is the one program of the test cluster's own image: the process of every pod's sandbox
// (pause), a server and a client to try the network with, and on the host the enforcer of
// NetworkPolicy. Standard library only.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// patience bounds every attempt of a client.
const patience = 3 * time.Second

const usage = `tool pause                  wait for SIGTERM and reap children
tool serve [ADDRESS]        answer every HTTP request with the host's and the caller's name (:8080)
tool get URL                print status and body; exit 1 unless the status is 2xx
tool lookup NAME [SERVER]   print the addresses of a name, of the system's name server or another
tool cat FILE               print a file
tool netpol API PKI DIR     enforce NetworkPolicy in the nodes' network namespaces, DIR/<node>`

func main() {
	arguments := append(os.Args[1:], "", "", "", "")
	var err error
	switch arguments[0] {
	case "pause":
		pause()
	case "serve":
		err = serve(arguments[1])
	case "get":
		err = get(arguments[1])
	case "lookup":
		err = lookup(arguments[1], arguments[2])
	case "cat":
		err = cat(arguments[1])
	case "netpol":
		err = netpol(arguments[1], arguments[2], arguments[3])
	default:
		err = fmt.Errorf("usage:\n%s", usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pause is PID 1 of a pod that shares its process namespace, so it reaps what others leave.
func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			var status syscall.WaitStatus
			if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func serve(address string) error {
	if address == "" {
		address = ":8080"
	}
	host, _ := os.Hostname()
	// PID 1 has no default action for SIGTERM.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		os.Exit(0)
	}()
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s answers %s\n", host, r.RemoteAddr)
	}))
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	fmt.Printf("%d %s\n", response.StatusCode, body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return err
}

func lookup(name, server string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resolver := net.DefaultResolver
	if server != "" {
		resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(server, "53"))
		}}
	}
	addresses, err := resolver.LookupHost(ctx, name)
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}

func cat(path string) error {
	content, err := os.ReadFile(path)
	os.Stdout.Write(content)
	return err
}
