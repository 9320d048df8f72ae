package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/plan"
)

// A container without a mount namespace of its own mounts its rootfs in one that
// outlives it, so whoever deletes it has to remove that mount; all others of the
// container are below it. It is on record before it is made.

// staysIn notes where the mount is going to be.
func (r *record) staysIn(p *plan.Program, s *specs.Spec) error {
	r.Stays = p.Stays
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.MountNamespace {
			r.StaysIn = n.Path
		}
	}
	ns, err := r.openStaysIn()
	if err != nil {
		return fmt.Errorf("linux.namespaces: %w", err)
	}
	defer func() { _ = closeFile(ns) }()
	if ns != nil {
		if r.StaysInID, err = sys.Inode(ns); err != nil {
			return err
		}
	}
	r.StaysOn, err = sys.MountID(ns, r.Stays)
	return err
}

// openStaysIn opens the namespace; nil is this process's.
func (r *record) openStaysIn() (*os.File, error) {
	if r.StaysIn == "" {
		return nil, nil
	}
	return sys.OpenNamespace(r.StaysIn, string(specs.MountNamespace))
}

// unmount removes the mount if it is there. It has gone with its namespace where
// that has gone.
func (r *record) unmount() error {
	if r.Stays == "" {
		return nil
	}
	ns, err := r.openStaysIn()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("linux.namespaces: %w", err)
	}
	defer func() { _ = closeFile(ns) }()
	if ns != nil {
		if id, err := sys.Inode(ns); err != nil || id != r.StaysInID {
			return err
		}
	}
	if err := sys.DetachMount(ns, r.Stays, r.StaysOn); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
