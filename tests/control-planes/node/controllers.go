package main

import (
	"context"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/endpointslice"
	"k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/kubernetes/pkg/controller/replicaset"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"
)

// controllers makes those of Kubernetes that the tests need. What it returns starts them.
func controllers(ctx context.Context, clients kubernetes.Interface, factory informers.SharedInformerFactory, authority []byte) func() {
	core, apps := factory.Core().V1(), factory.Apps().V1()
	deployments, err := deployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), core.Pods(), clients)
	check(err)
	replicaSets := replicaset.NewReplicaSetController(ctx, apps.ReplicaSets(), core.Pods(), clients, replicaset.BurstReplicas)
	slices := factory.Discovery().V1().EndpointSlices()
	endpoints := endpointslice.NewController(ctx, core.Pods(), core.Services(), core.Nodes(), slices, 100, clients, 100*time.Millisecond)
	jobs, err := job.NewController(ctx, clients, core.Pods(), factory.Batch().V1().Jobs(), nil, nil)
	check(err)
	accounts, err := serviceaccount.NewServiceAccountsController(klog.FromContext(ctx), core.ServiceAccounts(), core.Namespaces(), clients,
		serviceaccount.DefaultServiceAccountsControllerOptions())
	check(err)
	authorities, err := rootcacertpublisher.NewPublisher(core.ConfigMaps(), core.Namespaces(), clients, authority)
	check(err)
	return func() {
		all := []func(context.Context, int){
			deployments.Run, replicaSets.Run, jobs.Run, endpoints.Run, accounts.Run, authorities.Run,
		}
		for _, run := range all {
			go run(ctx, 1)
		}
	}
}
