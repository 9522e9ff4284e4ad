// A node of a cluster of Kubernetes, beside a real API server, on one machine and as one process: the controllers that make pods of
// Deployments and endpoints of pods, as Kubernetes has them; and in the place of its scheduler, kubelet, proxy and DNS, what little of
// them a test needs. Containers have a network and a file system of their own, and of their images the programs that are built here.
//
// It wants a network namespace in which it may do as it likes, with a bridge br0 that has its address, and ends with its processes when
// the namespace of processes that it runs in does.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"path/filepath"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	config := flag.String("kubeconfig", "", "how to reach the API server")
	address := flag.String("address", "10.244.0.1", "of this node, which pods have as their gateway and DNS")
	authority := flag.String("authority", "", "the certificate that the API server's is signed by")
	programs := flag.String("programs", "", "the folder of what images have in /usr/local/bin")
	template := flag.String("template", "", "the bootstrap that Istio's image has")
	work := flag.String("work", "", "a folder for what pods have on their disks")
	flag.Parse()

	client, err := clientcmd.BuildConfigFromFlags("", *config)
	check(err)
	client.QPS, client.Burst = 200, 400
	clients, err := kubernetes.NewForConfig(client)
	check(err)
	certificate, err := os.ReadFile(*authority)
	check(err)
	folder, err := filepath.Abs(*work)
	check(err)

	ctx := context.Background()
	factory := informers.NewSharedInformerFactory(clients, 0)
	start := controllers(ctx, clients, factory, certificate)
	network := newNetwork(factory, *address)
	node := newNode(clients, factory, network, images{programs: *programs, template: *template}, folder)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	check(node.register(ctx))
	start()
	go node.serve()
	network.run()
	node.run(ctx)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
