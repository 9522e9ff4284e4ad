package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// volumes writes the files of a pod's volumes, each volume in a folder of its name. It fails as long as one of them lacks what it needs.
func volumes(ctx context.Context, clients kubernetes.Interface, pod *pod, folder string) error {
	for _, volume := range pod.object.Spec.Volumes {
		files := files{ctx: ctx, clients: clients, pod: pod, folder: filepath.Join(folder, volume.Name)}
		if err := os.MkdirAll(files.folder, 0o777); err != nil {
			return err
		}
		// Whatever the umask: containers have users of their own.
		if err := os.Chmod(files.folder, 0o777); err != nil {
			return err
		}
		if volume.EmptyDir != nil {
			continue
		}
		for _, source := range sources(volume.VolumeSource) {
			if err := files.from(source); err != nil {
				return fmt.Errorf("volume %s: %w", volume.Name, err)
			}
		}
	}
	return nil
}

// sources are what a volume has its files from: a projected one from several, and others from one, as if that were projected.
func sources(volume corev1.VolumeSource) []corev1.VolumeProjection {
	if volume.Projected != nil {
		return volume.Projected.Sources
	}
	one := corev1.VolumeProjection{}
	if own := volume.ConfigMap; own != nil {
		one.ConfigMap = &corev1.ConfigMapProjection{LocalObjectReference: own.LocalObjectReference, Items: own.Items, Optional: own.Optional}
	}
	if own := volume.Secret; own != nil {
		name := corev1.LocalObjectReference{Name: own.SecretName}
		one.Secret = &corev1.SecretProjection{LocalObjectReference: name, Items: own.Items, Optional: own.Optional}
	}
	if own := volume.DownwardAPI; own != nil {
		one.DownwardAPI = &corev1.DownwardAPIProjection{Items: own.Items}
	}
	return []corev1.VolumeProjection{one}
}

// refresh has the files of a pod's ConfigMaps follow what these have, as the kubelet does.
func refresh(ctx context.Context, clients kubernetes.Interface, pod *pod, folder string) {
	for _, volume := range pod.object.Spec.Volumes {
		files := files{ctx: ctx, clients: clients, pod: pod, folder: filepath.Join(folder, volume.Name)}
		for _, source := range sources(volume.VolumeSource) {
			if source.ConfigMap == nil {
				continue
			}
			if err := files.from(source); err != nil {
				log.Printf("pod %s, volume %s: %v", pod.object.Name, volume.Name, err)
			}
		}
	}
}

type files struct {
	ctx     context.Context
	clients kubernetes.Interface
	pod     *pod
	folder  string
}

func (f files) from(source corev1.VolumeProjection) error {
	switch {
	case source.ConfigMap != nil:
		return f.configMap(source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional)
	case source.Secret != nil:
		return f.secret(source.Secret.Name, source.Secret.Items, source.Secret.Optional)
	case source.DownwardAPI != nil:
		return f.fields(source.DownwardAPI.Items)
	case source.ServiceAccountToken != nil:
		return f.token(source.ServiceAccountToken)
	default:
		return fmt.Errorf("this kind of volume is not known here")
	}
}

func (f files) configMap(name string, items []corev1.KeyToPath, optional *bool) error {
	found, err := f.clients.CoreV1().ConfigMaps(f.pod.object.Namespace).Get(f.ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	if err != nil {
		return err
	}
	content := found.BinaryData
	if content == nil {
		content = map[string][]byte{}
	}
	for key, text := range found.Data {
		content[key] = []byte(text)
	}
	return f.write(name, content, items, optional)
}

func (f files) secret(name string, items []corev1.KeyToPath, optional *bool) error {
	found, err := f.clients.CoreV1().Secrets(f.pod.object.Namespace).Get(f.ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	if err != nil {
		return err
	}
	return f.write(name, found.Data, items, optional)
}

func (f files) write(name string, content map[string][]byte, items []corev1.KeyToPath, optional *bool) error {
	if items == nil {
		for key := range content {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		value, found := content[item.Key]
		if !found && (optional == nil || !*optional) {
			return fmt.Errorf("%s has no %s", name, item.Key)
		}
		if err := f.put(item.Path, value); err != nil {
			return err
		}
	}
	return nil
}

func (f files) fields(items []corev1.DownwardAPIVolumeFile) error {
	for _, item := range items {
		text := ""
		if item.FieldRef != nil {
			var err error
			if text, err = f.pod.field(item.FieldRef.FieldPath); err != nil {
				return err
			}
		} else {
			text = resource(item.ResourceFieldRef, nil)
		}
		if err := f.put(item.Path, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func (f files) token(source *corev1.ServiceAccountTokenProjection) error {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: f.pod.object.Name, UID: f.pod.object.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	accounts := f.clients.CoreV1().ServiceAccounts(f.pod.object.Namespace)
	answer, err := accounts.CreateToken(f.ctx, f.pod.object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return f.put(source.Path, []byte(answer.Status.Token))
}

func (f files) put(path string, content []byte) error {
	path = filepath.Join(f.folder, path)
	if known, err := os.ReadFile(path); err == nil && bytes.Equal(known, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Whoever reads it meets one or the other.
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// resource is what a container may use, as the downward API tells it: where it has no limit, what the node has.
func resource(selector *corev1.ResourceFieldSelector, container *corev1.Container) string {
	name := corev1.ResourceName(selector.Resource[strings.Index(selector.Resource, ".")+1:])
	if container != nil {
		if quantity, set := container.Resources.Limits[name]; set {
			return fmt.Sprint(quantity.Value())
		}
	}
	return fmt.Sprint(map[corev1.ResourceName]int64{corev1.ResourceCPU: 2, corev1.ResourceMemory: 1 << 30}[name])
}
