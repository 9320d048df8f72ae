package bridge

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// A bridge belongs to one state directory, whose leases say which of its ports
// are somebody's. The directory is written into the link's alias, where `ip link`
// shows it: a second daemon with a root of its own, and the same bridge in its
// configuration, would else take the first one's ports for leftovers, and give
// its addresses out again. Whether the first one runs at the time is all the
// same, as its pods go on without it.

const (
	ownerPrefix = "strake: "
	maxAlias    = 255 // IFALIASZ without its zero
)

// owner is the alias of a bridge that is ours.
func (c Config) owner() string {
	alias := ownerPrefix + c.StateDir
	return alias[:min(len(alias), maxAlias)]
}

// foreign returns an error that names the bridge's owner, if that is another
// state directory and it has pods there. A bridge without ports is nobody's: it is
// what remains of a root that was tried out and removed.
func (b *Bridge) foreign(link netlink.Link) error {
	alias := link.Attrs().Alias
	if alias == b.config.owner() || !strings.HasPrefix(alias, ownerPrefix) {
		return nil
	}
	ports, err := ours(b.config.Bridge)
	if err != nil || len(ports) == 0 {
		return err
	}
	return fmt.Errorf("it has the pods of another straked, whose leases are in %s: configure another network.bridge",
		strings.TrimPrefix(alias, ownerPrefix))
}

// ports are the bridge's that a lease of ours should know; none of a bridge that
// is not ours.
func (b *Bridge) ports() ([]netlink.Link, error) {
	link, err := netlink.LinkByName(b.config.Bridge)
	if isNotFound(err) || err == nil && b.foreign(link) != nil {
		return nil, nil
	}
	return ours(b.config.Bridge)
}

// own writes us into the alias.
func (b *Bridge) own(link netlink.Link) error {
	if err := netlink.LinkSetAlias(link, b.config.owner()); err != nil {
		return fmt.Errorf("set its alias: %w", err)
	}
	return nil
}
