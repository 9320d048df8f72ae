// Package sdnotify tells systemd how a service is doing: sd_notify(3), of which
// it implements the datagram and nothing else. Without a NOTIFY_SOCKET, as when
// started by hand, it does nothing.
package sdnotify

import (
	"fmt"
	"net"
	"os"
	"strings"
)

// States to send.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// Send sends a state, several separated by newlines.
func Send(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	if !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "@") {
		return fmt.Errorf("notify systemd: NOTIFY_SOCKET %q is neither a path nor abstract", name)
	}
	// The net package turns a leading @ into the zero byte of an abstract name.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
