package main

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"sync"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

const domain = "svc.cluster.local"

// network is what pods reach each other by: their addresses, the names of services, and the addresses of services.
type network struct {
	address  string
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister

	lock      sync.Mutex
	pods      int
	listening map[string]bool
}

func newNetwork(factory informers.SharedInformerFactory, address string) *network {
	services := factory.Core().V1().Services()
	n := &network{
		address:   address,
		services:  services.Lister(),
		slices:    factory.Discovery().V1().EndpointSlices().Lister(),
		listening: map[string]bool{},
	}
	_, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.listen(object.(*corev1.Service)) },
		UpdateFunc: func(_, object any) { n.listen(object.(*corev1.Service)) },
	})
	check(err)
	return n
}

// run answers for the names of services.
func (n *network) run() {
	server := &dns.Server{Addr: net.JoinHostPort(n.address, "53"), Net: "udp", Handler: dns.HandlerFunc(n.resolve)}
	go func() { check(server.ListenAndServe()) }()
}

func (n *network) resolve(writer dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg)
	answer.SetReply(query)
	answer.Authoritative = true
	for _, question := range query.Question {
		parts := strings.Split(strings.TrimSuffix(question.Name, "."+domain+"."), ".")
		service, err := (*corev1.Service)(nil), error(nil)
		if len(parts) == 2 {
			service, err = n.services.Services(parts[1]).Get(parts[0])
		}
		if service == nil || err != nil {
			answer.Rcode = dns.RcodeNameError
		} else if question.Qtype == dns.TypeA {
			header := dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}
			for _, address := range n.addresses(service) {
				answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: net.ParseIP(address)})
			}
		}
	}
	if err := writer.WriteMsg(answer); err != nil {
		log.Print(err)
	}
}

// addresses are what the name of a service stands for: its own, or where it has none those of its pods.
func (n *network) addresses(service *corev1.Service) []string {
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		return []string{service.Spec.ClusterIP}
	}
	var addresses []string
	for _, endpoint := range n.endpoints(service.Namespace, service.Name, service.Spec.Ports[0].Name) {
		address, _, err := net.SplitHostPort(endpoint)
		check(err)
		addresses = append(addresses, address)
	}
	return addresses
}

// listen has the address of a service lead to its pods.
func (n *network) listen(service *corev1.Service) {
	if net.ParseIP(service.Spec.ClusterIP) == nil || len(service.Spec.Selector) == 0 {
		return
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	for _, port := range service.Spec.Ports {
		address := net.JoinHostPort(service.Spec.ClusterIP, fmt.Sprint(port.Port))
		if n.listening[address] || port.Protocol != corev1.ProtocolTCP {
			continue
		}
		n.listening[address] = true
		// It has it already where the service has several ports.
		_ = exec.Command("ip", "address", "add", service.Spec.ClusterIP+"/32", "dev", "lo").Run()
		listener, err := net.Listen("tcp", address)
		check(err)
		go func() {
			for {
				connection, err := listener.Accept()
				check(err)
				go n.forward(connection, service.Namespace, service.Name, port.Name)
			}
		}()
	}
}

func (n *network) forward(client net.Conn, namespace, service, port string) {
	defer client.Close()
	endpoints := n.endpoints(namespace, service, port)
	if len(endpoints) == 0 {
		return
	}
	server, err := net.Dial("tcp", endpoints[rand.IntN(len(endpoints))])
	if err != nil {
		return
	}
	defer server.Close()
	join(client, server)
}

// endpoints are the addresses of a service's pods that are ready.
func (n *network) endpoints(namespace, service, port string) []string {
	selector := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service})
	slices, err := n.slices.EndpointSlices(namespace).List(selector)
	check(err)
	var addresses []string
	for _, slice := range slices {
		for _, number := range slice.Ports {
			if number.Name == nil || *number.Name != port || number.Port == nil {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				if ready := endpoint.Conditions.Ready; ready != nil && *ready {
					addresses = append(addresses, net.JoinHostPort(endpoint.Addresses[0], fmt.Sprint(*number.Port)))
				}
			}
		}
	}
	return addresses
}

// join passes on what comes, in both directions, until both sides have said all.
func join(one, other net.Conn) {
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		if half, can := to.(*net.TCPConn); can {
			_ = half.CloseWrite()
		}
	}
	var passing sync.WaitGroup
	passing.Go(func() { pass(one, other) })
	pass(other, one)
	passing.Wait()
}

// connect gives the network namespace of a process an address in the cluster's network.
func (n *network) connect(process int) (string, error) {
	n.lock.Lock()
	n.pods++
	number := n.pods
	n.lock.Unlock()
	address, device := fmt.Sprintf("10.244.%d.%d", number/200, 10+number%200), fmt.Sprintf("pod%d", number)
	inside := fmt.Sprintf("nsenter --target %d --net ip", process)
	return address, run(strings.Join([]string{
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", device, process),
		fmt.Sprintf("ip link set %s master br0 up", device),
		fmt.Sprintf("%s address add %s/16 dev eth0", inside, address),
		inside + " link set lo up",
		inside + " link set eth0 up",
		fmt.Sprintf("%s route add default via %s", inside, n.address),
	}, "\n"))
}

// run has a shell do this.
func run(script string) error {
	output, err := exec.Command("sh", "-euc", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, output)
	}
	return nil
}
