package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

// The pins of a pod, below /ID in straked's pins: its namespaces and its /dev/shm
// by their kind, and the pidfd of each container's init, so that the kernel keeps
// its exit code (Linux 6.15) even while nobody is there to see it.
const (
	pidPin   = "pid-"
	pausePin = pidPin + "pause"
)

func (b *sandbox) pinPath(name string) string { return filepath.Join("/", b.id, name) }

// keepLent adds the network namespace to a pod's where it is lent: its path is a link to
// somebody who has it open only until StartSandbox has returned (network/netns, Lend). One
// that is mounted keeps itself.
func (s *Service) keepLent(b *sandbox, ns container.Namespaces) error {
	if s.pins == nil || b.spec.Linux == nil {
		return nil
	}
	for _, n := range b.spec.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace || n.Path == "" {
			continue
		}
		if _, err := os.Readlink(n.Path); errors.Is(err, syscall.EINVAL) {
			continue // a mount
		} else if err != nil {
			return fmt.Errorf("linux.namespaces: %w", err)
		}
		f, err := os.Open(n.Path)
		if err != nil {
			return fmt.Errorf("linux.namespaces: %w", err)
		}
		ns[n.Type] = f
	}
	return nil
}

// pinSandbox lets the pod's namespaces outlive this process.
func (s *Service) pinSandbox(b *sandbox, ns container.Namespaces, p *pause) error {
	if s.pins == nil {
		return nil
	}
	err := s.pins.Do(func() error {
		if err := sys.PinGroup(b.pinPath("")); err != nil {
			return err
		}
		for kind, f := range ns {
			if kind == specs.PIDNamespace {
				continue // it ends with the pause process anyway
			}
			if err := sys.Pin(f, b.pinPath(string(kind))); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
		}
		if p != nil {
			return pinPidFD(p.pidfd, b.pinPath(pausePin))
		}
		return nil
	})
	if m := ns[shm]; err == nil && m != nil {
		err = s.kept.keep(b.keepName(), m)
	}
	if err == nil {
		err = writeRecord(filepath.Join(b.bundle, sandboxFile), &sandboxRecord{CreatedAt: b.createdAt})
	}
	if err != nil {
		return fmt.Errorf("sandbox %s: pin its namespaces: %w", b.id, err)
	}
	return nil
}

// adoptShm makes a /dev/shm that is pinned the pod's again. What straked has kept
// is the mount as it was made, which containers can make theirs. If straked was
// killed, too, there is only a copy, which the kernel lets them use by a path on
// the host: the one case in which a pod has a second mount there.
func (s *Service) adoptShm(b *sandbox, ns container.Namespaces, pinned *os.File) error {
	kept := s.kept.take(b.keepName())
	if kept == nil {
		b.shmPath = filepath.Join(b.bundle, string(shm))
		return sys.MountOn(pinned, b.shmPath)
	}
	ns[shm] = kept
	return errors.Join(s.kept.keep(b.keepName(), kept), pinned.Close())
}

// pinPidFD pins a pidfd where the kernel can (6.14).
func pinPidFD(pidfd *os.File, path string) error {
	if err := sys.Pin(pidfd, path); !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// unpinSandbox lets go what is pinned of a pod, and records that it is stopped.
func (s *Service) unpinSandbox(b *sandbox) error {
	if s.pins == nil {
		return nil
	}
	s.kept.drop(b.keepName())
	err := s.pins.Do(func() error { return sys.UnpinGroup(b.pinPath("")) })
	if b.shmPath != "" {
		err = errors.Join(err, sys.Unmount(b.shmPath))
	}
	if err != nil {
		return fmt.Errorf("sandbox %s: let its namespaces go: %w", b.id, err)
	}
	return nil
}

// pinProcess lets the exit code of a container's init outlive this process.
func (s *Service) pinProcess(t *task, p *process) error {
	if s.pins == nil || t.pod == nil || p.pidfd == nil { // a foreign shim keeps its own
		return nil
	}
	err := s.pins.Do(func() error { return pinPidFD(p.pidfd, t.pod.pinPath(pidPin+t.id)) })
	if err != nil {
		return fmt.Errorf("pin its process: %w", err)
	}
	return nil
}

func (s *Service) unpinProcess(t *task) {
	if s.pins == nil || t.pod == nil {
		return
	}
	err := s.pins.Do(func() error { return sys.Unpin(t.pod.pinPath(pidPin + t.id)) })
	if err != nil {
		logf("container %s: let its process go: %v", t.id, err) // with the pod's
	}
}

// pinned are the descriptors behind the pins of a pod: of its namespaces by kind,
// of processes by the names of their pins.
func (s *Service) pinned(b *sandbox) (ns container.Namespaces, pidfds map[string]*os.File, err error) {
	ns, pidfds = container.Namespaces{}, map[string]*os.File{}
	err = s.pins.Do(func() error {
		entries, err := os.ReadDir(b.pinPath(""))
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := e.Name()
			switch path := b.pinPath(name); {
			case strings.HasPrefix(name, pidPin):
				pidfds[name], err = sys.OpenPinnedPidFD(path)
			case name == string(shm):
				ns[shm], err = sys.OpenPinnedMount(path)
			default:
				ns[specs.LinuxNamespaceType(name)], err = os.Open(path)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if m := ns[shm]; err == nil && m != nil {
		delete(ns, shm)
		err = s.adoptShm(b, ns, m)
	}
	if err != nil {
		for _, f := range pidfds {
			_ = f.Close() // of no use
		}
		return nil, nil, errors.Join(err, ns.Close())
	}
	return ns, pidfds, nil
}
