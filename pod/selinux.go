package pod

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"

	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/pod/bundle"
)

// SELinux gives labels by the policy that the kernel has loaded.
type SELinux interface {
	// Labels are those that were asked for, in the place of the policy's for containers.
	// Without a level they have one of categories that nobody else has, until it is
	// given back.
	Labels(asked bundle.SELinux) (bundle.Labels, error)
	// Reserve takes the categories of labels that were given before this daemon began,
	// and Release gives them back. Those that several have are released by each.
	Reserve(bundle.Labels)
	Release(bundle.Labels)
	// Relabel gives a file, or a directory with all that is in it, a label. File systems
	// without labels are no error.
	Relabel(path, label string) error
}

// KernelSELinux is the host's; nil if the kernel has none, or a policy without labels
// for containers.
func KernelSELinux() SELinux {
	if !selinux.GetEnabled() {
		return nil
	}
	if process, mount := selinux.ContainerLabels(); process == "" || mount == "" {
		return nil
	}
	return kernelSELinux{}
}

type kernelSELinux struct{}

func (kernelSELinux) Labels(asked bundle.SELinux) (bundle.Labels, error) {
	var options []string
	for _, o := range []struct{ key, value string }{{"user", asked.User}, {"role", asked.Role}, {"type", asked.Type}, {"level", asked.Level}} {
		if o.value != "" {
			options = append(options, o.key+":"+o.value)
		}
	}
	process, mount, err := label.InitLabels(options)
	if err != nil {
		return bundle.Labels{}, err
	}
	if err := selinux.SecurityCheckContext(process); err != nil {
		selinux.ReleaseLabel(process)
		return bundle.Labels{}, fmt.Errorf("%q is no label of the policy that is loaded: %w", process, err)
	}
	return bundle.Labels{Process: process, Mount: mount}, nil
}

func (kernelSELinux) Reserve(l bundle.Labels) { selinux.ReserveLabel(l.Process) }
func (kernelSELinux) Release(l bundle.Labels) { selinux.ReleaseLabel(l.Process) }

func (kernelSELinux) Relabel(path, l string) error {
	err := label.Relabel(path, l, false)
	if errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

// checkSELinux refuses labels that nothing would enforce. A level alone only keeps pods
// apart whose type confines them, and storage tests of clusters without SELinux ask for one.
func (m *Manager) checkSELinux(field string, asked *bundle.SELinux) error {
	if asked == nil || m.o.SELinux != nil || asked.User == "" && asked.Role == "" && asked.Type == "" {
		return nil
	}
	return fmt.Errorf("%s.selinux_options: not supported: the kernel has no SELinux, or no policy with labels for containers: %w", field, bundle.ErrUnsupported)
}

// labelPod gives a pod its labels, which its containers share but for what they ask for
// themselves. It has them until it is removed.
func (m *Manager) labelPod(p *sandbox) error {
	if m.o.SELinux == nil {
		return nil
	}
	var asked bundle.SELinux
	if o := p.record.Config.Security.SELinux; o != nil {
		asked = *o
	}
	labels, err := m.o.SELinux.Labels(asked)
	if err != nil {
		return errorf(ErrInvalid, "linux.security_context.selinux_options: %w", err)
	}
	p.mu.Lock()
	p.record.Labels = labels
	p.mu.Unlock()
	return nil
}

// unlabelPod lets another pod have its categories.
func (m *Manager) unlabelPod(p *sandbox) {
	if m.o.SELinux != nil && p.record.Labels != (bundle.Labels{}) {
		m.o.SELinux.Release(p.record.Labels)
	}
}

// labelContainer is what a container of the pod is labelled with.
func (m *Manager) labelContainer(p *sandbox, s *bundle.Security) (bundle.Labels, error) {
	labels := p.record.Labels // never changes after its birth
	if m.o.SELinux == nil || s.SELinux == nil || *s.SELinux == (bundle.SELinux{}) {
		return labels, nil
	}
	asked := *s.SELinux
	if asked.Level == "" {
		asked.Level = levelOf(labels.Process)
	}
	labels, err := m.o.SELinux.Labels(asked)
	if err != nil {
		return bundle.Labels{}, errorf(ErrInvalid, "linux.security_context.selinux_options: %w", err)
	}
	return labels, nil
}

// levelOf is the last part of a label, user:role:type:level.
func levelOf(l string) string {
	parts := strings.SplitN(l, ":", 4)
	if len(parts) < 4 {
		return ""
	}
	return parts[3]
}

// labelRoot gives all files of a container's root its label: by the mount where that can,
// so that the image's layers stay everybody's.
func (m *Manager) labelRoot(root *rootfs.Mount, l string) error {
	switch {
	case m.o.SELinux == nil || l == "":
		return nil
	case root.Type == "overlay":
		root.Options = append(root.Options, "context="+l)
		return nil
	}
	return m.o.SELinux.Relabel(root.Source, l)
}

// relabel gives what a container is to use of the host its label: where its mounts ask
// for (selinux_relabel).
func (m *Manager) relabel(mounts []bundle.Mount, l string) error {
	if m.o.SELinux == nil || l == "" {
		return nil
	}
	for i := range mounts {
		if !mounts[i].SELinuxRelabel || mounts[i].HostPath == "" {
			continue
		}
		if err := m.o.SELinux.Relabel(mounts[i].HostPath, l); err != nil {
			return fmt.Errorf("mounts[%d].selinux_relabel: %w", i, err)
		}
	}
	return nil
}

// relabelPodFiles makes the files that all of the pod's containers see theirs.
func (m *Manager) relabelPodFiles(p *sandbox, paths ...string) error {
	l := p.record.Labels.Mount
	if m.o.SELinux == nil || l == "" {
		return nil
	}
	for _, path := range paths {
		if err := m.o.SELinux.Relabel(path, l); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("label %s: %w", path, err)
		}
	}
	return nil
}
