package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

// Where a container that notifies has its socket (CreateOptions.Notify), and the
// directory of the state that is mounted there.
const (
	notifyVariable = "NOTIFY_SOCKET"
	notifyInside   = "/run/notify"
	notifyDir      = "notify"
	notifySocket   = "notify.sock"
)

// maxNotification is how much of a datagram is read: as much as systemd reads.
const maxNotification = 4096

// addNotify gives a config the socket's directory and its process the variable, and
// returns the config's text. A config that has the variable itself has its own
// arrangement, and keeps it.
func addNotify(o *CreateOptions, s *specs.Spec, raw []byte) ([]byte, error) {
	if s.Process == nil || slices.ContainsFunc(s.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, notifyVariable+"=") }) {
		o.Notify = false
		return raw, nil
	}
	o.Env = append(slices.Clip(o.Env), notifyVariable+"="+notifyInside+"/"+notifySocket)
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: notifyInside, Type: "bind", Source: filepath.Join(o.StateRoot, o.ID, notifyDir),
		Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"},
	})
	return json.Marshal(s)
}

// makeNotifyDir makes what is mounted into the container: empty until it is started.
func (c *Container) makeNotifyDir() error {
	dir := filepath.Join(c.dir, notifyDir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask is: it is the container's users' to search
}

// Notifications are what a container's processes say to its service manager.
type Notifications struct {
	id     string
	socket *os.File
	pidfd  *os.File // of init
	pid    int
}

// ListenNotify makes the socket of a container that was created with Notify and that
// has not been started; nil for any other. What is said before Ready is called waits.
// The caller closes it.
func (c *Container) ListenNotify() (*Notifications, error) {
	r, err := c.load()
	if err != nil || !r.Notify {
		return nil, err
	}
	n := &Notifications{id: c.id, pid: r.Pid}
	if n.pidfd, err = openPollable(r); err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	dir := filepath.Join(c.dir, notifyDir)
	n.socket, err = sys.ListenDatagram(dir, notifySocket)
	if errors.Is(err, syscall.EADDRINUSE) {
		// Of a start that is under way, or of one that was killed.
		if other, dialErr := sys.DialDatagramIn(dir, notifySocket); dialErr == nil {
			_ = other.Close()
			return nil, errors.Join(fmt.Errorf("container %s: somebody else is starting it", c.id), n.Close())
		}
		if err = os.Remove(filepath.Join(dir, notifySocket)); err == nil {
			n.socket, err = sys.ListenDatagram(dir, notifySocket)
		}
	}
	if err == nil {
		err = os.Chmod(filepath.Join(dir, notifySocket), 0o666) // any user in the container may write to it
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("container %s: %w", c.id, err), n.Close())
	}
	return n, nil
}

// openPollable is openInit for the poller.
func openPollable(r *record) (*os.File, error) {
	pidfd, err := openInit(r)
	if err != nil {
		return nil, err
	}
	pollable, err := sys.DupPollable(pidfd)
	return pollable, errors.Join(err, pidfd.Close())
}

// Pid is that of the container's init.
func (n *Notifications) Pid() int { return n.pid }

// Ready waits until a process of the container says that it is ready, READY=1 of
// sd_notify(3), and returns false if init ends without. Nothing else that is said
// counts: which process is the main one, for one, is not the container's to tell.
// Descriptors that come along are closed, so a barrier of the container's is lifted
// once what came before it has been read.
func (n *Notifications) Ready(ctx context.Context) (bool, error) {
	waiting, ended := context.WithCancel(ctx)
	defer ended()
	go func() {
		_ = sys.WaitReadable(waiting, n.pidfd) // fails only when nobody waits any more
		ended()
	}()
	buf := make([]byte, maxNotification)
	for {
		// What was said before init ended counts: this is asked first.
		over := waiting.Err() != nil
		for {
			got, err := sys.ReceiveDatagram(n.socket, buf)
			if errors.Is(err, syscall.EAGAIN) {
				break
			}
			if err != nil {
				return false, fmt.Errorf("container %s: notification: %w", n.id, err)
			}
			if slices.ContainsFunc(bytes.Split(buf[:got], []byte("\n")), func(line []byte) bool { return string(line) == "READY=1" }) {
				return true, nil
			}
		}
		if over {
			if cause := context.Cause(ctx); cause != nil {
				return false, fmt.Errorf("container %s: its program runs and has not said that it is ready: %w", n.id, cause)
			}
			return false, nil
		}
		if err := sys.WaitReadable(waiting, n.socket); err != nil && waiting.Err() == nil {
			return false, fmt.Errorf("container %s: notification: %w", n.id, err)
		}
	}
}

// Close stops listening. What the container says from then on is refused.
func (n *Notifications) Close() error {
	if n == nil {
		return nil
	}
	return errors.Join(closeFile(n.socket), closeFile(n.pidfd))
}
