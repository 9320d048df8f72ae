package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/sys"
)

// Kill kills a child and waits for its end, and closes its pidfd.
func Kill(p *Process) error {
	conn, err := p.PidFD.SyscallConn()
	if err != nil {
		return err
	}
	var killErr error
	err = conn.Control(func(fd uintptr) {
		killErr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
		_ = unix.SetNonblock(int(fd), false)
		_ = reap(int(fd))
	})
	if errors.Is(killErr, unix.ESRCH) {
		killErr = nil // it had ended by itself
	}
	return errors.Join(err, killErr, p.PidFD.Close())
}

// GateError is what a container's first process could not do after its start.
type GateError struct {
	Text  string
	Errno syscall.Errno
}

func (e *GateError) Error() string { return e.Text + ": " + hookText(e.Errno) }
func (e *GateError) Unwrap() error { return e.Errno }

// IsHook says whether it was a hook.
func (e *GateError) IsHook() bool { return strings.HasPrefix(e.Text, "hooks.") }

// IsExec says whether it was the execve.
func (e *GateError) IsExec() bool { return strings.HasPrefix(e.Text, "exec ") }

// AwaitExec waits on a connection to a gate for the execve behind it, which
// closes the connection, or for what went wrong. It returns the last step that it
// heard of too: "" until a hook is run. Listener gets the listener of the
// process's seccomp filter, as in Request; pidfd opens the process's.
func AwaitExec(conn *os.File, pidfd func() (*os.File, error), listener func(*os.File) error) (at string, err error) {
	buf := make([]byte, msgHeader+msgText)
	listens := false
	for {
		n, err := conn.Read(buf)
		if n == 0 && (err == nil || err.Error() == "EOF" || errors.Is(err, syscall.ECONNRESET)) {
			if errors.Is(err, syscall.ECONNRESET) {
				return at, fmt.Errorf("the gate was closed: %w", err)
			}
			return at, nil
		}
		if err != nil {
			return at, err
		}
		if n < msgHeader {
			continue
		}
		value := binary.NativeEndian.Uint32(buf[8:])
		switch binary.NativeEndian.Uint32(buf) {
		case msgAt:
			at = string(buf[msgHeader:n])
		case msgError:
			return at, &GateError{Text: string(buf[msgHeader:n]), Errno: syscall.Errno(value)}
		case msgListener:
			if listens { // as in conversation.expected, who says so need not be our program
				return at, errors.New("a second seccomp listener")
			}
			listens = true
			p, err := pidfd()
			if err != nil {
				return at, err
			}
			err = errors.Join(listenerOf(sys.Fd(p), int(value), listener), p.Close())
			if err != nil {
				return at, err
			}
			if _, err := conn.Write([]byte{1}); err != nil {
				return at, err
			}
		}
	}
}
