// istiod's generators over files, without a cluster: what istiod validates, merges and sends, it does here, to any Envoy that asks.
//
// Resources come from one file, the objects of Kubernetes from another. With each line of its standard input it reads the
// resources again. It ends with that input, so that it does not outlive the test that started it.
package main

import (
	"bufio"
	"flag"
	"log"
	"net"
	"net/http"
	"os"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
)

func read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return string(text)
}

// Puts resources into the place of those with the same names. None is taken away.
func update(server *xds.FakeDiscoveryServer, text string) {
	resources, _, err := crd.ParseInputs(text)
	if err != nil {
		log.Fatal(err)
	}
	for _, resource := range resources {
		if server.Store().Get(resource.GroupVersionKind, resource.Name, resource.Namespace) == nil {
			_, err = server.Store().Create(resource)
		} else {
			_, err = server.Store().Update(resource)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

func main() {
	configs := flag.String("configs", "", "a file with resources of Istio")
	objects := flag.String("objects", "", "a file with Services, Pods and EndpointSlices")
	meshConfig := flag.String("mesh", "", "a file with a MeshConfig")
	listen := flag.String("listen", "127.0.0.1:15010", "where Envoys ask, without TLS")
	debug := flag.String("debug", "127.0.0.1:15014", "where /debug/syncz tells what was refused")
	listenSecrets := flag.String("secrets", "127.0.0.1:15031", "where Envoys ask for certificates")
	certificates := flag.String("certificates", "", "a folder with ca.crt, proxy.crt and proxy.key")
	flag.Parse()

	settings, err := mesh.ApplyMeshConfigDefaults(read(*meshConfig))
	if err != nil {
		log.Fatal(err)
	}
	// A plain Envoy has nobody who gives it certificates.
	settings.EnableAutoMtls = wrapperspb.Bool(false)
	settings.EnableTracing = false

	err = test.Wrap(func(t test.Failer) {
		server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
			MeshConfig: settings,
			// It runs the validation of istiod's webhook.
			ConfigString:               read(*configs),
			KubernetesObjectString:     read(*objects),
			DisableSecretAuthorization: true,
			ListenerBuilder:            func() (net.Listener, error) { return net.Listen("tcp", *listen) },
		})
		go func() { log.Fatal(http.ListenAndServe(*debug, server.DiscoveryDebug)) }()
		if *certificates != "" {
			go serveSecrets(*listenSecrets, *certificates)
		}
		for input := bufio.NewScanner(os.Stdin); input.Scan(); {
			update(server, read(*configs))
		}
	})
	if err != nil {
		log.Fatal(err)
	}
}
