package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

const idle, creation = 4 * time.Hour, 30 * time.Second

// serve answers what kubectl asks of a kubelet: logs, exec and port-forward.
func (n *node) serve() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(n.network.address)}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", n.logs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", n.exec)
	mux.HandleFunc("/portForward/{namespace}/{pod}", n.forward)
	server := &http.Server{
		Addr: net.JoinHostPort(n.network.address, fmt.Sprint(kubeletPort)), Handler: mux,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}},
		// Streams are HTTP/1.1 that is upgraded.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	check(server.ListenAndServeTLS("", ""))
}

func (n *node) asked(request *http.Request) *container {
	pod := n.pod(request.PathValue("namespace"), request.PathValue("pod"))
	if pod == nil {
		return nil
	}
	return pod.container(request.PathValue("container"))
}

func (n *node) logs(writer http.ResponseWriter, request *http.Request) {
	container := n.asked(request)
	if container == nil {
		http.Error(writer, "there is no such container", http.StatusNotFound)
		return
	}
	file, err := os.Open(container.log)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusNotFound)
		return
	}
	defer file.Close()
	for {
		if _, err := io.Copy(writer, file); err != nil || request.URL.Query().Get("follow") != "true" {
			return
		}
		writer.(http.Flusher).Flush()
		select {
		case <-request.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (n *node) exec(writer http.ResponseWriter, request *http.Request) {
	container := n.asked(request)
	if container == nil {
		http.Error(writer, "there is no such container", http.StatusNotFound)
		return
	}
	options, err := remotecommand.NewOptions(request)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(writer, request, executor{container}, "", "", "", request.URL.Query()["command"], options, idle, creation,
		remotecommand.SupportedStreamingProtocols)
}

// executor runs commands in a container.
type executor struct{ container *container }

func (e executor) ExecInContainer(ctx context.Context, _, _, _ string, words []string, in io.Reader, out, err io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	variables, failure := e.container.environment()
	if failure != nil {
		return failure
	}
	inside := []string{fmt.Sprintf("--target=%d", e.container.init()), "--net", "--mount", "--pid", "--root", "--wd"}
	process := exec.Command("nsenter", append(inside, words...)...)
	process.Env = variables
	process.Stdin, process.Stdout = in, out
	if err != nil {
		process.Stderr = err
	}
	return process.Run()
}

func (n *node) forward(writer http.ResponseWriter, request *http.Request) {
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	pod := n.pod(request.PathValue("namespace"), request.PathValue("pod"))
	if pod == nil {
		http.Error(writer, "there is no such pod", http.StatusNotFound)
		return
	}
	portforward.ServePortForward(writer, request, forwarder{pod}, "", "", options, idle, creation, portforward.SupportedProtocols)
}

// forwarder connects to the loopback address of a pod.
type forwarder struct{ pod *pod }

func (f forwarder) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	server, err := f.dial(port)
	if err != nil {
		return err
	}
	defer server.Close()
	go func() { _, _ = io.Copy(server, stream) }()
	_, err = io.Copy(stream, server)
	return err
}

// dial makes a connection inside the pod's network. Its thread never comes back from there, and ends with the goroutine.
func (f forwarder) dial(port int32) (net.Conn, error) {
	type outcome struct {
		connection net.Conn
		err        error
	}
	dialled := make(chan outcome)
	go func() {
		runtime.LockOSThread()
		var connection net.Conn
		network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", f.pod.process))
		if err == nil {
			defer network.Close()
			err = unix.Setns(int(network.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			connection, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		}
		dialled <- outcome{connection, err}
	}()
	made := <-dialled
	return made.connection, made.err
}
