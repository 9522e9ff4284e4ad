package main

import (
	"context"
	"log"
	"net"
	"os"
	"path/filepath"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// secrets gives proxies the certificates in a folder, as Istio's agent in each pod would.
type secrets struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	folder string
}

func serveSecrets(listen, folder string) {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	secret.RegisterSecretDiscoveryServiceServer(server, &secrets{folder: folder})
	log.Fatal(server.Serve(listener))
}

// StreamSecrets answers the first request of a stream. What follows are acknowledgements: nothing ever changes.
func (s *secrets) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	for answered := false; ; answered = true {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if refused := request.GetErrorDetail(); refused != nil {
			log.Printf("certificates were refused: %v", refused)
		}
		if answered {
			continue
		}
		response := &discovery.DiscoveryResponse{VersionInfo: "1", Nonce: "1", TypeUrl: request.TypeUrl}
		for _, name := range request.ResourceNames {
			any, err := anypb.New(s.secret(name))
			if err != nil {
				return err
			}
			response.Resources = append(response.Resources, any)
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func (s *secrets) FetchSecrets(context.Context, *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	return nil, status.Error(codes.Unimplemented, "by streams only")
}

// secret is the proxy's own certificate, or whom it trusts.
func (s *secrets) secret(name string) *tls.Secret {
	if name != "default" {
		trusted := &tls.CertificateValidationContext{TrustedCa: s.file("ca.crt")}
		return &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: trusted}}
	}
	own := &tls.TlsCertificate{CertificateChain: s.file("proxy.crt"), PrivateKey: s.file("proxy.key")}
	return &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: own}}
}

func (s *secrets) file(name string) *core.DataSource {
	bytes, err := os.ReadFile(filepath.Join(s.folder, name))
	if err != nil {
		log.Fatal(err)
	}
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: bytes}}
}
