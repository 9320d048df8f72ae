package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The few messages of rtnetlink(7) that moving a link takes, written by hand: the
// runtime links no library for them.

// Link is a network device: where MoveLink has put it, and how it was.
type Link struct {
	Index     int
	Name      string
	Up        bool
	addresses [][]byte // bodies of RTM_NEWADDR, less the index
}

// MoveLink moves a link from one network namespace to another (nil: this
// process's) in one step with its new name, in which %d is a number that the
// kernel chooses. Permanent addresses of global scope move with it. It is up
// afterwards. What is returned says how it was, and where it is now: nil if it
// was not moved.
func MoveLink(from, to *os.File, name, newName string) (old, moved *Link, err error) {
	err = inNetNS(from, func() error {
		old, err = takeLink(to, name, newName)
		return err
	})
	if err != nil && old != nil {
		return old, &Link{Name: name}, err
	}
	if err != nil {
		return nil, nil, err
	}
	err = inNetNS(to, func() error {
		moved, err = old.arrive(newName)
		return err
	})
	return old, moved, err
}

func inNetNS(ns *os.File, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return InNetNS(ns, fn)
}

// takeLink sends a link of this thread's namespace away. With an error, what is
// not nil has been sent, but keeps its name.
func takeLink(to *os.File, name, newName string) (*Link, error) {
	nl, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nl.close()
	l := &Link{Name: name}
	if l.Index, err = linkIndex(name); err != nil {
		return nil, fmt.Errorf("no network device %s: %w", name, err)
	}
	if l.Up, err = linkIsUp(name); err != nil {
		return nil, err
	}
	// Before it is down: that takes IPv6's addresses away.
	if l.addresses, err = nl.addresses(l.Index); err != nil {
		return nil, fmt.Errorf("addresses of network device %s: %w", name, err)
	}
	if err := setLinkUp(name, false); err != nil {
		return nil, err
	}
	if to == nil {
		if to, err = os.Open("/proc/self/ns/net"); err != nil { // not the thread's: the process's
			return nil, err
		}
		defer func() { _ = to.Close() }()
	}
	body := binary.NativeEndian.AppendUint32(make([]byte, 4), uint32(l.Index)) // struct ifinfomsg
	body = append(body, make([]byte, 8)...)
	body = appendAttr(body, unix.IFLA_IFNAME, append([]byte(newName), 0))
	body = appendAttr(body, unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(Fd(to))))
	if err := nl.do(unix.RTM_NEWLINK, unix.NLM_F_ACK, body); err != nil {
		err = fmt.Errorf("move network device %s to %s: %w", name, newName, err)
		if _, gone := linkIndex(name); gone != nil {
			return l, err // it is there, but the name is another's
		}
		if l.Up {
			err = errors.Join(err, setLinkUp(name, true))
		}
		return nil, err
	}
	return l, nil
}

// arrive finishes the move in the namespace of this thread.
func (l *Link) arrive(name string) (*Link, error) {
	nl, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer nl.close()
	now := &Link{Name: name}
	if strings.Contains(name, "%d") {
		err = nl.find(now, name)
	} else {
		now.Index, err = linkIndex(name)
	}
	if err != nil {
		return nil, fmt.Errorf("network device %s as %s: %w", l.Name, name, err)
	}
	for _, a := range l.addresses {
		binary.NativeEndian.PutUint32(a[4:], uint32(now.Index))
		err := nl.do(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, a)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return now, fmt.Errorf("address of network device %s: %w", now.Name, err)
		}
	}
	return now, setLinkUp(now.Name, true)
}

// SetDown is for a link that was down before it was moved and moved back.
func (l *Link) SetDown() error { return setLinkUp(l.Name, false) }

func ifreq(name string, call uint, with func(*unix.Ifreq)) (*unix.Ifreq, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	if with != nil {
		with(req)
	}
	return req, unix.IoctlIfreq(fd, call, req)
}

func linkIndex(name string) (int, error) {
	req, err := ifreq(name, unix.SIOCGIFINDEX, nil)
	if err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

func linkIsUp(name string) (bool, error) {
	req, err := ifreq(name, unix.SIOCGIFFLAGS, nil)
	if err != nil {
		return false, fmt.Errorf("network device %s: %w", name, err)
	}
	return req.Uint16()&unix.IFF_UP != 0, nil
}

func setLinkUp(name string, up bool) error {
	req, err := ifreq(name, unix.SIOCGIFFLAGS, nil)
	if err == nil {
		flags := req.Uint16() &^ unix.IFF_UP
		if up {
			flags |= unix.IFF_UP
		}
		_, err = ifreq(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(flags) })
	}
	if err != nil {
		return fmt.Errorf("network device %s: %w", name, err)
	}
	return nil
}

// netlink is a socket to the kernel's routing tables.
type netlink struct {
	fd  int
	seq uint32
}

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket(AF_NETLINK)", err)
	}
	return &netlink{fd: fd}, nil
}

func (nl *netlink) close() { _ = unix.Close(nl.fd) }

// do sends a request and waits for the acknowledgement.
func (nl *netlink) do(kind, flags uint16, body []byte) error {
	return nl.ask(kind, flags, body, nil)
}

// ask sends a request and calls each for the messages of the answer, up to its
// end or the acknowledgement.
func (nl *netlink) ask(kind, flags uint16, body []byte, each func(kind uint16, body []byte)) error {
	nl.seq++
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, flags|unix.NLM_F_REQUEST)
	msg = binary.NativeEndian.AppendUint32(msg, nl.seq)
	msg = append(append(msg, 0, 0, 0, 0), body...)
	if err := unix.Sendto(nl.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto(netlink)", err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(nl.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom(netlink)", err)
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.SizeofNlMsghdr || size > len(rest) {
				return errors.New("netlink: message cut off")
			}
			kind, body := binary.NativeEndian.Uint16(rest[4:]), rest[unix.SizeofNlMsghdr:size]
			switch {
			case kind == unix.NLMSG_DONE:
				return nil
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				if errno := int32(binary.NativeEndian.Uint32(body)); errno != 0 {
					return unix.Errno(-errno)
				}
				return nil
			case each != nil:
				each(kind, body)
			}
			rest = rest[min(align4(size), len(rest)):]
		}
	}
}

const (
	sizeIfaddrmsg = 8
	sizeIfinfomsg = 16
	// The flags of an address that its owner has chosen.
	addressFlags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MCAUTOJOIN
)

// addresses are the permanent ones of global scope of a link.
func (nl *netlink) addresses(index int) (list [][]byte, err error) {
	err = nl.ask(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, sizeIfaddrmsg), func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWADDR || len(body) < sizeIfaddrmsg || int(binary.NativeEndian.Uint32(body[4:])) != index {
			return
		}
		flags, scope := uint32(body[2]), body[3]
		keep := []byte{body[0], body[1], 0, scope, 0, 0, 0, 0}
		eachAttr(body[sizeIfaddrmsg:], func(kind uint16, value []byte) {
			switch kind {
			case unix.IFA_FLAGS:
				flags = binary.NativeEndian.Uint32(value)
			case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST, unix.IFA_RT_PRIORITY:
				keep = appendAttr(keep, kind, value)
			}
		})
		if flags&unix.IFA_F_PERMANENT == 0 || scope != unix.RT_SCOPE_UNIVERSE {
			return
		}
		if own := flags & addressFlags; own != 0 {
			keep = appendAttr(keep, unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, own))
		}
		list = append(list, keep)
	})
	return list, err
}

// find looks for the newest link whose name fits a template.
func (nl *netlink) find(l *Link, template string) error {
	before, after, _ := strings.Cut(template, "%d")
	err := nl.ask(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, sizeIfinfomsg), func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWLINK || len(body) < sizeIfinfomsg {
			return
		}
		index := int(binary.NativeEndian.Uint32(body[4:]))
		up := binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
		eachAttr(body[sizeIfinfomsg:], func(kind uint16, value []byte) {
			if kind != unix.IFLA_IFNAME {
				return
			}
			name := unix.ByteSliceToString(value)
			number, ok := strings.CutPrefix(name, before)
			number, end := strings.CutSuffix(number, after)
			if ok && end && number != "" && strings.Trim(number, "0123456789") == "" && !up && index > l.Index { // ours is still down
				l.Index, l.Name = index, name
			}
		})
	})
	if err == nil && l.Index == 0 {
		err = errors.New("not there after its move")
	}
	return err
}

func align4(n int) int { return (n + 3) &^ 3 }

// appendAttr appends a struct rtattr with its value.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align4(len(value))-len(value))...)
}

func eachAttr(b []byte, each func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofRtAttr:size])
		b = b[min(align4(size), len(b)):]
	}
}
