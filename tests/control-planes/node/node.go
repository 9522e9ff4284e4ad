package main

import (
	"context"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/fieldpath"
)

const (
	nodeName    = "one"
	kubeletPort = 10250
)

// node runs the containers of all pods.
type node struct {
	clients kubernetes.Interface
	lister  corelisters.PodLister
	network *network
	images  images
	folder  string

	lock sync.Mutex
	pods map[types.UID]*pod
}

func newNode(clients kubernetes.Interface, factory informers.SharedInformerFactory, network *network, images images, folder string) *node {
	lister := factory.Core().V1().Pods().Lister()
	return &node{clients: clients, lister: lister, network: network, images: images, folder: folder, pods: map[types.UID]*pod{}}
}

// register tells the API server of the node, so that it finds logs here.
func (n *node) register(ctx context.Context) error {
	_, err := n.clients.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{corev1.LabelHostname: nodeName}},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.network.address}},
			Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
		},
	}, metav1.CreateOptions{})
	return err
}

// run starts what is new, and ends what is to go.
func (n *node) run(ctx context.Context) {
	for range time.Tick(100 * time.Millisecond) {
		wanted, err := n.lister.List(labels.Everything())
		check(err)
		for _, object := range wanted {
			n.lock.Lock()
			running := n.pods[object.UID]
			n.lock.Unlock()
			switch {
			case object.DeletionTimestamp != nil:
				n.end(ctx, object, running)
			case running == nil:
				folder := filepath.Join(n.folder, string(object.UID))
				started := &pod{node: n, object: object.DeepCopy(), folder: folder, containers: map[string]*container{}}
				n.lock.Lock()
				n.pods[object.UID] = started
				n.lock.Unlock()
				go started.run(ctx)
			}
		}
	}
}

func (n *node) end(ctx context.Context, object *corev1.Pod, running *pod) {
	if running != nil {
		running.stop()
		n.lock.Lock()
		delete(n.pods, object.UID)
		n.lock.Unlock()
	}
	now := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(object.UID))}
	err := n.clients.CoreV1().Pods(object.Namespace).Delete(ctx, object.Name, options)
	if err != nil && !errors.IsNotFound(err) && !errors.IsConflict(err) {
		log.Printf("pod %s: %v", object.Name, err)
	}
}

// pod is one that runs here, by its names.
func (n *node) pod(namespace, name string) *pod {
	n.lock.Lock()
	defer n.lock.Unlock()
	for _, pod := range n.pods {
		if pod.object.Namespace == namespace && pod.object.Name == name {
			return pod
		}
	}
	return nil
}

// pod is one that runs here.
type pod struct {
	node   *node
	object *corev1.Pod
	folder string

	lock       sync.Mutex
	process    int // which keeps its network
	stopped    bool
	containers map[string]*container
}

func (p *pod) container(name string) *container {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.containers[name]
}

// run starts the containers one after the other, as the kubelet does, and says from then on whether they are ready.
func (p *pod) run(ctx context.Context) {
	pods := p.node.clients.CoreV1().Pods(p.object.Namespace)
	binding := &corev1.Binding{ObjectMeta: p.object.ObjectMeta, Target: corev1.ObjectReference{Kind: "Node", Name: nodeName}}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		log.Printf("pod %s: %v", p.object.Name, err)
	}
	p.object.Spec.NodeName = nodeName
	if err := p.connect(); err != nil {
		log.Printf("pod %s: %v", p.object.Name, err)
		return
	}
	// As in a real cluster, a pod waits for what its volumes are made of.
	for {
		err := volumes(ctx, p.node.clients, p, filepath.Join(p.folder, "volumes"))
		if err == nil {
			break
		}
		log.Printf("pod %s waits: %v", p.object.Name, err)
		time.Sleep(200 * time.Millisecond)
	}
	go p.report(ctx)
	go func() {
		for ; !p.isStopped(); time.Sleep(2 * time.Second) {
			refresh(ctx, p.node.clients, p, filepath.Join(p.folder, "volumes"))
		}
	}()
	for _, specification := range p.object.Spec.InitContainers {
		always := specification.RestartPolicy != nil && *specification.RestartPolicy == corev1.ContainerRestartPolicyAlways
		started := p.start(&specification, always)
		if !always {
			<-started.ended
			continue
		}
		for !p.isStopped() && !started.passes(specification.StartupProbe) {
			time.Sleep(200 * time.Millisecond)
		}
	}
	for _, specification := range p.object.Spec.Containers {
		p.start(&specification, p.object.Spec.RestartPolicy == corev1.RestartPolicyAlways)
	}
}

// connect makes the pod's network.
func (p *pod) connect() error {
	script := "echo; exec sleep infinity"
	if context := p.object.Spec.SecurityContext; context != nil {
		for _, setting := range context.Sysctls {
			path := strings.ReplaceAll(setting.Name, ".", "/")
			script = fmt.Sprintf("echo '%s' >'/proc/sys/%s'; ", setting.Value, path) + script
		}
	}
	keeper := exec.Command("unshare", "--net", "sh", "-c", script)
	said, err := keeper.StdoutPipe()
	if err != nil {
		return err
	}
	if err := keeper.Start(); err != nil {
		return err
	}
	// It is in a network of its own once it speaks.
	if _, err := said.Read(make([]byte, 1)); err != nil {
		return err
	}
	p.lock.Lock()
	p.process = keeper.Process.Pid
	p.lock.Unlock()
	address, err := p.node.network.connect(keeper.Process.Pid)
	if err != nil {
		return err
	}
	p.object.Status.PodIP, p.object.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	p.object.Status.HostIP, p.object.Status.HostIPs = p.node.network.address, []corev1.HostIP{{IP: p.node.network.address}}
	return nil
}

// field is what the downward API tells of the pod.
func (p *pod) field(path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return p.object.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.object.Spec.ServiceAccountName, nil
	case "status.podIP":
		return p.object.Status.PodIP, nil
	case "status.hostIP":
		return p.object.Status.HostIP, nil
	}
	return fieldpath.ExtractFieldPathAsString(p.object, path)
}

func (p *pod) start(specification *corev1.Container, always bool) *container {
	started := newContainer(p, specification.DeepCopy(), always)
	p.lock.Lock()
	p.containers[specification.Name] = started
	p.lock.Unlock()
	go started.run()
	return started
}

func (p *pod) stop() {
	p.lock.Lock()
	containers := maps.Clone(p.containers)
	stopped, process := p.stopped, p.process
	p.stopped = true
	p.lock.Unlock()
	if stopped {
		return
	}
	for _, container := range containers {
		container.kill()
	}
	kill(process)
}

func (p *pod) isStopped() bool {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.stopped
}

// report keeps the pod's status as it is.
func (p *pod) report(ctx context.Context) {
	said := ""
	for ; !p.isStopped(); time.Sleep(300 * time.Millisecond) {
		status := p.status()
		now := fmt.Sprint(status.Conditions, status.ContainerStatuses, status.InitContainerStatuses)
		if now == said {
			continue
		}
		pods := p.node.clients.CoreV1().Pods(p.object.Namespace)
		current, err := pods.Get(ctx, p.object.Name, metav1.GetOptions{})
		if err != nil || current.UID != p.object.UID {
			continue
		}
		current.Status = status
		if _, err := pods.UpdateStatus(ctx, current, metav1.UpdateOptions{}); err == nil {
			said = now
		}
	}
}

func (p *pod) status() corev1.PodStatus {
	status := *p.object.Status.DeepCopy()
	status.Phase = corev1.PodRunning
	ready := corev1.ConditionTrue
	of := func(specification *corev1.Container) corev1.ContainerStatus {
		container := p.container(specification.Name)
		if container == nil {
			return corev1.ContainerStatus{Name: specification.Name, Image: specification.Image, State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"},
			}}
		}
		return container.status()
	}
	for _, specification := range p.object.Spec.InitContainers {
		status.InitContainerStatuses = append(status.InitContainerStatuses, of(&specification))
	}
	for _, specification := range p.object.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, of(&specification))
	}
	over := len(status.ContainerStatuses) > 0
	for _, one := range status.ContainerStatuses {
		over = over && one.State.Terminated != nil
	}
	if over {
		status.Phase = corev1.PodSucceeded
	}
	for _, one := range append(status.InitContainerStatuses, status.ContainerStatuses...) {
		if !one.Ready {
			ready = corev1.ConditionFalse
		}
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		value := corev1.ConditionTrue
		if kind == corev1.ContainersReady || kind == corev1.PodReady {
			value = ready
		}
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: value})
	}
	return status
}

// passes tells whether a container is as its probe wants it. Others than those by HTTP are taken to be so.
func (c *container) passes(probe *corev1.Probe) bool {
	if probe == nil || probe.HTTPGet == nil {
		return true
	}
	address := net.JoinHostPort(c.pod.object.Status.PodIP, fmt.Sprint(probe.HTTPGet.Port.IntValue()))
	client := http.Client{Timeout: time.Second}
	response, err := client.Get("http://" + address + probe.HTTPGet.Path)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode < 400
}
