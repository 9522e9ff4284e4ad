package main

import (
	"context"
	"fmt"
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
		var err error
		source := volume.VolumeSource
		switch {
		case source.EmptyDir != nil:
		case source.ConfigMap != nil:
			err = files.configMap(source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional)
		case source.Secret != nil:
			err = files.secret(source.Secret.SecretName, source.Secret.Items, source.Secret.Optional)
		case source.DownwardAPI != nil:
			err = files.fields(source.DownwardAPI.Items)
		case source.Projected != nil:
			err = files.projected(source.Projected.Sources)
		default:
			err = fmt.Errorf("this kind of volume is not known here")
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
	}
	return nil
}

type files struct {
	ctx     context.Context
	clients kubernetes.Interface
	pod     *pod
	folder  string
}

func (f files) projected(sources []corev1.VolumeProjection) error {
	for _, source := range sources {
		var err error
		switch {
		case source.ConfigMap != nil:
			err = f.configMap(source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional)
		case source.Secret != nil:
			err = f.secret(source.Secret.Name, source.Secret.Items, source.Secret.Optional)
		case source.DownwardAPI != nil:
			err = f.fields(source.DownwardAPI.Items)
		case source.ServiceAccountToken != nil:
			err = f.token(source.ServiceAccountToken)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
		bytes, found := content[item.Key]
		if !found && (optional == nil || !*optional) {
			return fmt.Errorf("%s has no %s", name, item.Key)
		}
		if err := f.put(item.Path, bytes); err != nil {
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
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
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
