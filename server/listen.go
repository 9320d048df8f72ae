// Package server is what straked's fronts share: the unix socket, the port for clients
// with a certificate, the gRPC server on them, and what every call passes through. The
// services themselves are in the folders below; this package knows none of them.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/certs"
	"github.com/strake-containers/strake/internal/sys"
)

// ErrInUse is the class of the error when somebody serves the address already.
var ErrInUse = errors.New("another daemon is using it: stop that, or choose another address, root and state")

// ErrLost is the class of the error when the socket is not at its address any more.
var ErrLost = errors.New("it was removed or replaced, so nobody reaches this daemon there: stop whoever did that, then start this one again")

// dialTimeout is how long a socket that is there may take to answer before it
// counts as left behind. Connecting needs no reply from the daemon itself.
const dialTimeout = 2 * time.Second

// deathTimeout is how long a killed daemon may take to disappear.
const deathTimeout = 3 * time.Second

// Socket is a listening unix socket and the lock that makes it ours. Who serves
// on Listener may close it; the lock is held until Close.
type Socket struct {
	Listener net.Listener
	address  string
	file     fs.FileInfo // what is at address while it is ours
	lock     *os.File
}

// Listen listens on the unix socket address, with mode 0600; a missing directory
// is made with 0700. A socket that a killed daemon left is replaced, atomically:
// a client sees the old one or the new one, never none. One that a live daemon
// answers is ErrInUse, and so is a lock held on address.lock, which tells even
// two daemons apart that start at once.
func Listen(ctx context.Context, address string) (*Socket, error) {
	fail := func(err error) (*Socket, error) { return nil, fmt.Errorf("listen on %s: %w", address, err) }
	if err := os.MkdirAll(filepath.Dir(address), 0o700); err != nil {
		return fail(err)
	}
	lock, err := takeLock(ctx, address+".lock")
	if err != nil {
		return fail(err)
	}
	if err := checkFree(ctx, address); err != nil {
		return fail(errors.Join(err, lock.Close()))
	}
	l, file, err := bind(ctx, address)
	if err != nil {
		return fail(errors.Join(err, lock.Close()))
	}
	return &Socket{Listener: l, address: address, file: file, lock: lock}, nil
}

// AwaitLoss waits until the socket is not at its address any more, and returns an
// ErrLost, or until ctx ends. Daemons other than this one look neither at our lock nor
// at who answers.
func (s *Socket) AwaitLoss(ctx context.Context) error {
	watch, err := sys.NewInotify()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = watch.Close() }) // ends Wait
	defer stop()
	if err := watch.Add(filepath.Dir(s.address), sys.InMovedTo|sys.InMovedFrom|sys.InCreate|sys.InDelete); err != nil {
		return errors.Join(err, watch.Close())
	}
	for s.ours() {
		if err := watch.Wait(); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return errors.Join(err, watch.Close())
		}
	}
	return errors.Join(fmt.Errorf("socket %s: %w", s.address, ErrLost), watch.Close())
}

// ours says whether what is at the address is the socket that we made.
func (s *Socket) ours() bool {
	file, err := os.Lstat(s.address)
	return err == nil && os.SameFile(file, s.file)
}

// takeLock opens and locks the lock file, which holds its owner's pid.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600) // it is truncated: never somebody's link
	if err != nil {
		return nil, err
	}
	waitForDeath(ctx, lock)
	taken, err := sys.Lock(lock)
	if err == nil && !taken {
		err = ErrInUse
	}
	if err == nil {
		err = errors.Join(lock.Truncate(0), writeAt(lock, strconv.Itoa(os.Getpid())))
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// waitForDeath waits until the daemon that wrote the lock file has died, if it is
// dying. A killed process gives its locks, ports and sockets free one after the
// other, and the kernel takes a while over a large one: whoever starts straked
// again at once must not find half of them taken. A daemon that lives costs the
// caller deathTimeout, and is then told by the lock.
func waitForDeath(ctx context.Context, lock *os.File) {
	buf := make([]byte, 20)
	n, _ := lock.ReadAt(buf, 0) // io.EOF, or no pid
	pid, err := strconv.Atoi(string(buf[:n]))
	if err != nil || pid <= 0 || pid == os.Getpid() || comm(pid) != comm(os.Getpid()) {
		return // nobody, or somebody else with that number
	}
	process, err := sys.OpenPidFD(pid)
	if err != nil {
		return // dead
	}
	defer func() { _ = process.Close() }()
	ctx, cancel := context.WithTimeout(ctx, deathTimeout)
	defer cancel()
	_ = sys.WaitReadable(ctx, process) // the lock says whether it has died
}

func comm(pid int) string {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // "": it has gone
	return string(name)
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// checkFree says whether address can be taken: nothing is there, or a socket
// that nobody answers.
func checkFree(ctx context.Context, address string) error {
	info, err := os.Lstat(address)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("a file that is no socket is in the way")
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil // left behind
	}
	if listenerIsDead(conn.(*net.UnixConn)) {
		return conn.Close()
	}
	return errors.Join(ErrInUse, conn.Close())
}

// listenerIsDead says whether the process that listens at the other end has died, though
// a child of its has the socket.
func listenerIsDead(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peer *syscall.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if controlErr != nil || err != nil || peer.Pid <= 0 { // 0: of another PID namespace
		return false
	}
	return errors.Is(syscall.Kill(int(peer.Pid), 0), syscall.ESRCH)
}

// bind makes the socket beside address and moves it there once its mode is
// right: nobody can connect before.
func bind(ctx context.Context, address string) (net.Listener, fs.FileInfo, error) {
	temp := address + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", temp)
	if err != nil {
		return nil, nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // Close removes the final name
	fail := func(err error) (net.Listener, fs.FileInfo, error) {
		return nil, nil, errors.Join(err, l.Close(), os.Remove(temp))
	}
	if err := os.Chmod(temp, 0o600); err != nil {
		return fail(err)
	}
	file, err := os.Lstat(temp)
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(temp, address); err != nil {
		return fail(err)
	}
	return l, file, nil
}

// ListenTLS listens on IP:PORT for clients with a certificate, for a gRPC server. The
// files are those of grpc.tls, and have a ClientCA.
func ListenTLS(ctx context.Context, address string, files certs.Files, log *slog.Logger) (net.Listener, error) {
	secure, err := certs.Server(files, "h2", log)
	if err != nil {
		return nil, fmt.Errorf("grpc.tls: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on grpc.tcp_address %q: %w", address, err)
	}
	return tls.NewListener(l, secure), nil
}

// Close stops listening, removes the socket, unless another's is there now, and then
// gives the lock free. The lock's file stays: removing it would let two daemons lock two files of one name.
func (s *Socket) Close() error {
	_ = s.lock.Truncate(0) // a pid that is not there is nobody to wait for
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // the gRPC server has closed it
	}
	if s.ours() {
		err = errors.Join(err, os.Remove(s.address))
	}
	return errors.Join(err, s.lock.Close())
}
