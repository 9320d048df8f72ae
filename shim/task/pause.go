package task

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/reap"
)

// pause is the first process of a PID namespace that containers share.
type pause struct {
	container *container.Container
	pid       int
	pidfd     *os.File
	ns        *os.File // its PID namespace; the sandbox's to close
	done      chan struct{}
}

// nobody is the user that the pause process runs as.
const nobody = 65534

// startPause starts a container of one program, of some hundred bytes, which
// ignores SIGCHLD, so that the kernel collects the namespace's orphans, and
// sleeps. It costs a few pages; a copy of the monitor would cost half a megabyte.
// It has a root of its own, no capabilities and no user's rights: containers of
// the pod can look at process 1 and must find nothing there.
func (s *Service) startPause(ctx context.Context, b *sandbox, ns container.Namespaces) (_ *pause, err error) {
	var undo cleanup.Stack
	defer undo.Run(&err)
	bundle := filepath.Join(b.bundle, "pause")
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return nil, err
	}
	undo.Push("remove its bundle", func() error { return os.RemoveAll(bundle) })
	if err := os.WriteFile(filepath.Join(rootfs, "pause"), pauseProgram(), 0o555); err != nil {
		return nil, err
	}
	// Root of the pod's user namespace makes /dev in it.
	ids := idMapsOf(b.spec)
	if err := os.Chown(rootfs, hostID(ids.uid, 0), hostID(ids.gid, 0)); err != nil {
		return nil, err
	}
	spec, err := pauseSpec(b, rootfs, ns)
	if err != nil {
		return nil, err
	}
	c, init, err := container.Create(ctx, container.CreateOptions{
		ID: b.id + "-pause", Bundle: bundle, StateRoot: s.podStateRoot(b), Spec: spec,
		SystemdCgroup: spec.Linux != nil && cgroup.IsScope(spec.Linux.CgroupsPath),
	})
	if err != nil {
		return nil, err
	}
	undo.Push("delete it", func() error { return c.Delete(context.WithoutCancel(ctx), true) })
	p := &pause{container: c, pid: init.Pid, pidfd: init.PidFD, done: make(chan struct{})}
	undo.Push("close its pidfd", p.pidfd.Close)
	if err := s.reaper.Watch(p.pid, p.pidfd, func(reap.Exit) { close(p.done) }); err != nil {
		return nil, err
	}
	if p.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/pid", p.pid)); err != nil {
		return nil, err
	}
	undo.Push("close its namespace", p.ns.Close)
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	undo.Release()
	return p, nil
}

// pauseSpec has the pod's namespaces, a new PID namespace and hardly anything else.
func pauseSpec(b *sandbox, rootfs string, ns container.Namespaces) (*specs.Spec, error) {
	linux := &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
	}
	for kind, f := range ns {
		path, err := fdPath(f)
		if err != nil {
			return nil, err
		}
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	// Beside the pod's containers, with no directory above that somebody would
	// have to remove.
	linux.CgroupsPath = "/" + b.id + "-pause"
	if b.spec.Linux.CgroupsPath != "" {
		linux.CgroupsPath = b.spec.Linux.CgroupsPath + "-pause"
	}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootfs, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/pause"}, Cwd: "/", User: specs.User{UID: nobody, GID: nobody},
			NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		},
		Linux: linux,
	}, nil
}

// stopPause ends the pause process, and with it whatever is left in the pod's
// PID namespace, and removes its traces.
func (s *Service) stopPause(ctx context.Context, p *pause) error {
	if err := signalFD(p.pidfd, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	release := s.reaper.Hold()
	defer release()
	if err := p.container.Delete(ctx, true); err != nil {
		return err
	}
	return p.pidfd.Close()
}

// pauseProgram is a static executable made of an ELF header, one program header
// and pauseCode (of this architecture).
func pauseProgram() []byte {
	const (
		base       = 0x400000
		headerSize = 64
		progSize   = 56
		align      = 0x1000
	)
	size := uint64(headerSize + progSize + len(pauseCode))
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01") // 64 bits, little endian
	b.Write(make([]byte, 9))
	for _, field := range []any{
		uint16(2), uint16(pauseMachine), uint32(1), // executable
		uint64(base + headerSize + progSize), uint64(headerSize), uint64(0), // entry, program headers
		uint32(0), uint16(headerSize), uint16(progSize), uint16(1), uint16(0), uint16(0), uint16(0),

		uint32(1), uint32(5), // load, to read and execute
		uint64(0), uint64(base), uint64(base), size, size, uint64(align),
	} {
		_ = binary.Write(&b, binary.LittleEndian, field) // a Buffer takes everything
	}
	b.Write(pauseCode)
	return b.Bytes()
}
