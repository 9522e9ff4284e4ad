package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// images are what containers are made of: all have the same files, those of this machine and what is built here.
type images struct {
	programs string
	template string
}

// entrypoint is what an image runs where its container names no command.
func (i images) entrypoint(image string) []string {
	switch {
	case strings.Contains(image, "pilot"):
		return []string{"/usr/local/bin/pilot-discovery"}
	case strings.Contains(image, "proxyv2"):
		return []string{"/usr/local/bin/pilot-agent"}
	case strings.Contains(image, "envoyproxy/gateway"):
		return []string{"/usr/local/bin/envoy-gateway"}
	}
	return nil
}

// environment is what an image sets. istiod leaves out here what only Istio's own build of Envoy has.
func (i images) environment(image string) []string {
	environment := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "PYTHONDONTWRITEBYTECODE=1"}
	if strings.Contains(image, "pilot") {
		environment = append(environment, "PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_DISABLE_MX_ALPN=true")
	}
	return environment
}

// container is one that runs, and is started again when it ends.
type container struct {
	pod           *pod
	specification *corev1.Container
	always        bool
	root          string
	log           string
	ended         chan struct{}

	lock     sync.Mutex
	process  *os.Process
	restarts int32
	killed   bool
	done     bool
}

func newContainer(pod *pod, specification *corev1.Container, always bool) *container {
	folder := filepath.Join(pod.folder, "containers", specification.Name)
	return &container{
		pod: pod, specification: specification, always: always, ended: make(chan struct{}),
		root: filepath.Join(folder, "root"), log: filepath.Join(folder, "log"),
	}
}

func (c *container) run() {
	defer close(c.ended)
	check(os.MkdirAll(c.root, 0o755))
	output, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	check(err)
	defer output.Close()
	// Whoever the container runs as may open /dev/stdout.
	check(output.Chmod(0o666))
	for {
		process, err := c.command()
		if err == nil {
			process.Stdout, process.Stderr = output, output
			c.lock.Lock()
			if err = process.Start(); err == nil {
				c.process = process.Process
			}
			killed := c.killed
			c.lock.Unlock()
			if err == nil && killed {
				kill(process.Process.Pid)
			}
			if err == nil {
				err = process.Wait()
			}
		}
		log.Printf("container %s of %s ended: %v", c.specification.Name, c.pod.object.Name, err)
		c.lock.Lock()
		c.process = nil
		c.done = !c.always && err == nil
		over := c.killed || c.done
		if !over {
			c.restarts++
		}
		c.lock.Unlock()
		if over {
			return
		}
		time.Sleep(time.Second)
	}
}

// command is the container's, in the network of its pod, with a file system and processes of its own.
func (c *container) command() (*exec.Cmd, error) {
	variables, err := c.environment()
	if err != nil {
		return nil, err
	}
	known := map[string]string{}
	for _, variable := range variables {
		name, value, _ := strings.Cut(variable, "=")
		known[name] = value
	}
	expand := func(words []string) []string {
		var expanded []string
		for _, word := range words {
			expanded = append(expanded, expansion.Expand(word, expansion.MappingFuncFor(known)))
		}
		return expanded
	}
	arguments := expand(c.specification.Command)
	if len(arguments) == 0 {
		arguments = c.pod.node.images.entrypoint(c.specification.Image)
	}
	arguments = append(arguments, expand(c.specification.Args)...)
	if len(arguments) == 0 {
		return nil, fmt.Errorf("what %s runs is not known here", c.specification.Image)
	}
	process := exec.Command("nsenter", append([]string{
		fmt.Sprintf("--target=%d", c.pod.process), "--net", "unshare", "--mount", "--pid", "--fork", "--kill-child",
		"sh", "-euc", c.script() + `exec chroot --userspec="$0" . "$@"`, c.user(),
	}, arguments...)...)
	process.Env = variables
	return process, nil
}

// script makes the container's file system, and goes there.
func (c *container) script() string {
	lines := []string{
		fmt.Sprintf("mount -t tmpfs none '%s'", c.root),
		fmt.Sprintf("cd '%s'", c.root),
		"mkdir -m 1777 tmp; mkdir dev etc home proc root run sys var; mkdir -p usr var/lib/istio/envoy var/lib/istio/data var/run",
		"chmod 777 var/lib/istio var/lib/istio/* var/run run etc",
		// Where /bin is a link, it is one here.
		"for folder in bin lib lib32 lib64 libx32 sbin; do",
		`if [ -L "/$folder" ]; then cp -a "/$folder" "$folder"`,
		`elif [ -d "/$folder" ]; then mkdir "$folder"; mount --bind "/$folder" "$folder"; fi`,
		"done",
		"for file in alternatives group ld.so.cache nsswitch.conf passwd python3 ssl; do",
		"if [ -e /etc/$file ]; then cp -a /etc/$file etc; fi",
		"done",
		"mount --bind /usr usr; mount --rbind /dev dev; mount -t tmpfs -o mode=1777 none dev/shm; mount -t proc none proc",
		fmt.Sprintf("printf 'nameserver %s\\nsearch %s.%s %s cluster.local\\noptions ndots:5\\n' >etc/resolv.conf",
			c.pod.node.network.address, c.pod.object.Namespace, domain, domain),
		fmt.Sprintf("printf '127.0.0.1 localhost\\n%s %s\\n' >etc/hosts", c.pod.object.Status.PodIP, c.pod.object.Name),
		`python=$(readlink -f "$(command -v python3)")`,
		"mount -t tmpfs none usr/local/bin",
		`bind() { touch "$2"; mount --bind "$1" "$2"; }`,
		`bind "$python" usr/local/bin/python`,
		fmt.Sprintf(`for program in '%s'/*; do bind "$program" "usr/local/bin/${program##*/}"; done`, c.pod.node.images.programs),
		fmt.Sprintf("bind '%s' var/lib/istio/envoy/envoy_bootstrap_tmpl.json", c.pod.node.images.template),
	}
	for _, mount := range c.specification.VolumeMounts {
		source := filepath.Join(c.pod.folder, "volumes", mount.Name, mount.SubPath)
		lines = append(lines, fmt.Sprintf("mkdir -p '.%s'; mount --bind '%s' '.%s'", mount.MountPath, source, mount.MountPath))
	}
	return strings.Join(lines, "\n") + "\n"
}

func (c *container) user() string {
	user, group := int64(0), int64(0)
	if context := c.pod.object.Spec.SecurityContext; context != nil {
		user, group = or(context.RunAsUser, user), or(context.RunAsGroup, group)
	}
	if context := c.specification.SecurityContext; context != nil {
		user, group = or(context.RunAsUser, user), or(context.RunAsGroup, group)
	}
	return fmt.Sprintf("%d:%d", user, group)
}

func or(value *int64, otherwise int64) int64 {
	if value == nil {
		return otherwise
	}
	return *value
}

func (c *container) environment() ([]string, error) {
	environment := append(c.pod.node.images.environment(c.specification.Image),
		"HOSTNAME="+c.pod.object.Name,
		"KUBERNETES_SERVICE_HOST="+c.pod.node.network.address, "KUBERNETES_SERVICE_PORT=6443")
	if slices.Contains(c.specification.Args, "waypoint") {
		// To a newer one istiod sends what only Istio's own build of Envoy has.
		environment = append(environment, "ISTIO_META_ISTIO_VERSION=1.28.0")
	}
	for _, variable := range c.specification.Env {
		value := variable.Value
		if source := variable.ValueFrom; source != nil {
			var err error
			switch {
			case source.FieldRef != nil:
				value, err = c.pod.field(source.FieldRef.FieldPath)
			case source.ResourceFieldRef != nil:
				value = resource(source.ResourceFieldRef, c.specification)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", variable.Name, err)
			}
		}
		environment = append(environment, variable.Name+"="+value)
	}
	return environment, nil
}

func (c *container) status() corev1.ContainerStatus {
	c.lock.Lock()
	running, done, restarts := c.process != nil, c.done, c.restarts
	c.lock.Unlock()
	status := corev1.ContainerStatus{Name: c.specification.Name, Image: c.specification.Image, RestartCount: restarts}
	if done {
		status.Ready = true
		status.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed"}
		return status
	}
	status.State.Running = &corev1.ContainerStateRunning{}
	status.Started = &running
	status.Ready = running && c.passes(c.specification.ReadinessProbe)
	return status
}

// init is the first process of the container, or 0.
func (c *container) init() int {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.process == nil {
		return 0
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.process.Pid, c.process.Pid))
	if err != nil {
		return 0
	}
	first := 0
	_, _ = fmt.Sscan(string(children), &first)
	return first
}

func (c *container) kill() {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.killed = true
	if c.process != nil {
		kill(c.process.Pid)
	}
}

func kill(process int) {
	if process > 0 {
		_ = syscall.Kill(process, syscall.SIGKILL)
	}
}
