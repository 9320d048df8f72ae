package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// labelCLI marks the pods of `strake run`, whose one container goes by the
	// pod's name.
	labelCLI = "strake.containers/cli"
	// namespaceCLI is the Kubernetes namespace they are in.
	namespaceCLI = "strake"
	// annotationPorts holds what ps shows of a container's -p: CRI gives port
	// mappings to the daemon and not back.
	annotationPorts = "strake.containers/ports"
	// annotationStdio says which of -i and -t a container was run with.
	annotationStdio = "strake.containers/stdio"
)

// shortID is how much of an id people see.
const shortID = 12

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), shortID)]
}

// container is a container with its pod.
type container struct {
	*cri.Container
	pod *cri.PodSandbox // nil: removed since
}

// name is what a person calls the container.
func (c container) name() string {
	name := c.GetMetadata().GetName()
	if c.pod == nil {
		return name
	}
	m := c.pod.GetMetadata()
	if _, ours := c.pod.Labels[labelCLI]; ours {
		return m.GetName()
	}
	return m.GetNamespace() + "/" + m.GetName() + "/" + name
}

// ofCLI reports whether `strake run` made the container: its pod goes with it.
func (c container) ofCLI() bool {
	if c.pod == nil {
		return false
	}
	_, ours := c.pod.Labels[labelCLI]
	return ours
}

// running returns an error if the container is not, by the name that was given
// to it: straked speaks of ids.
func (c container) running() error {
	if c.State == cri.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	return fmt.Errorf("%s is not running: see strake ps -a", c.name())
}

// containers lists all containers, newest first.
func (c *client) containers(ctx context.Context) ([]container, error) {
	pods, err := c.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*cri.PodSandbox, len(pods.Items))
	for _, p := range pods.Items {
		byID[p.Id] = p
	}
	list, err := c.pods.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	all := make([]container, 0, len(list.Containers))
	for _, item := range list.Containers {
		all = append(all, container{item, byID[item.PodSandboxId]})
	}
	slices.SortStableFunc(all, func(a, b container) int { return int(min(1, max(-1, b.CreatedAt-a.CreatedAt))) })
	return all, nil
}

// container finds the one that ref means.
func (c *client) container(ctx context.Context, ref string) (container, error) {
	all, err := c.containers(ctx)
	if err != nil {
		return container{}, err
	}
	return findContainer(all, ref)
}

// findContainer finds by name, which wins, or by an id or the beginning of one.
// Of the containers of one name, which the kubelet makes by restarting, it is
// the newest.
func findContainer(newestFirst []container, ref string) (container, error) {
	for _, c := range newestFirst {
		if c.name() == ref {
			return c, nil
		}
	}
	return byID("container", newestFirst, ref, func(c container) string { return c.Id }, "see strake ps -a")
}

// byID finds what has an id that begins with ref.
func byID[T any](what string, all []T, ref string, id func(T) string, remedy string) (found T, err error) {
	var matches []T
	if ref != "" {
		for _, x := range all {
			if strings.HasPrefix(id(x), ref) {
				matches = append(matches, x)
			}
		}
	}
	switch len(matches) {
	case 1:
		return matches[0], nil
	case 0:
		return found, fmt.Errorf("no such %s: %s: %s", what, ref, remedy)
	}
	ids := make([]string, len(matches))
	for i, m := range matches {
		ids[i] = short(id(m))
	}
	return found, fmt.Errorf("%s %s: %d ids begin like that: %s", what, ref, len(ids), strings.Join(ids, " "))
}
