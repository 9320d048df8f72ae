// Package sdnotify tells systemd how a service is doing: sd_notify(3), of which
// it implements the datagram and nothing else. Without a NOTIFY_SOCKET, as when
// started by hand, it does nothing.
package sdnotify

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// States to send.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Watchdog = "WATCHDOG=1"
)

// Socket is where the service manager wants to be told, a path or, after @, an abstract
// name (NOTIFY_SOCKET); "" if nobody does.
func Socket() (string, error) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name != "" && !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "@") {
		return "", fmt.Errorf("NOTIFY_SOCKET: %q is neither an absolute path nor an abstract name: unset it, if this is no service", name)
	}
	return name, nil
}

// Send sends a state, several separated by newlines.
func Send(state string) (err error) {
	name, err := Socket()
	if err != nil || name == "" {
		return err
	}
	to, err := sys.DialDatagram(name)
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := to.WriteString(state); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Reloading says that the configuration is being read again; Ready says that it
// has been.
func Reloading() string {
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", sys.Monotonic().Microseconds())
}

// WatchdogInterval is how often systemd wants to hear Watchdog at least; 0: never.
// An error is a value that systemd does not send.
func WatchdogInterval() (time.Duration, error) {
	usec := os.Getenv("WATCHDOG_USEC")
	if pid := os.Getenv("WATCHDOG_PID"); usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil // not asked for, or of another process
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > int64(24*time.Hour/time.Microsecond) {
		return 0, fmt.Errorf("notify systemd: WATCHDOG_USEC %q is not a number of microseconds", usec)
	}
	return time.Duration(n) * time.Microsecond, nil
}
