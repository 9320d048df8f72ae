package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

// netDevices are the network devices that create has moved into a container,
// and its network namespace, which keeps them until it is certain that they stay.
type netDevices struct {
	ns    *os.File
	moved []movedLink
}

type movedLink struct{ was, is *sys.Link }

// move moves them, in the order of their names.
func (n *netDevices) move(pid int, devices map[string]specs.LinuxNetDevice) (err error) {
	n.ns, err = sys.OpenNamespace("/proc/"+strconv.Itoa(pid)+"/ns/net", string(specs.NetworkNamespace))
	if err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	names := make([]string, 0, len(devices))
	for name := range devices {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		newName := devices[name].Name
		if newName == "" {
			newName = name
		}
		was, is, err := sys.MoveLink(nil, n.ns, name, newName)
		if is != nil {
			n.moved = append(n.moved, movedLink{was, is})
		}
		if err != nil {
			return fmt.Errorf("linux.netDevices[%s]: %w", name, err)
		}
	}
	return nil
}

// back moves them to where they were: a virtual device would go with the
// namespace.
func (n *netDevices) back() error {
	var errs []error
	for _, m := range slices.Backward(n.moved) {
		_, _, err := sys.MoveLink(n.ns, nil, m.is.Name, m.was.Name)
		if err == nil && !m.was.Up {
			err = m.was.SetDown()
		}
		errs = append(errs, err)
	}
	n.keep()
	return errors.Join(errs...)
}

// keep leaves them where they are.
func (n *netDevices) keep() { _ = closeFile(n.ns) }
