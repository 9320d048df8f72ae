package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/shim/wire"
)

const (
	// containerdSockets is where containerd's shims have their sockets. The names
	// are hashes, since the ids could make a path too long.
	containerdSockets = "/run/containerd/s"
	// strakeSocket is the socket's name in a bundle of straked.
	strakeSocket = "monitor.sock"

	serveAction = "serve"
	// listenerFD is where serve finds the listening socket.
	listenerFD = 3
	// programFD is the serving program's own file (sealed). Nobody reads it: that
	// it is open keeps its mount, the removal of which takes the kernel some
	// milliseconds, until the end.
	programFD = 4
)

// bootstrap is what start prints.
type bootstrap struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// start starts a monitor, or finds the one of the same pod, and prints where it
// listens.
func start(p parameters) error {
	path, err := socketPath(p)
	if err != nil {
		return err
	}
	listener, err := listen(path)
	if err != nil {
		return err
	}
	if listener != nil { // nil: the pod has a monitor
		if err := spawn(p, path, listener); err != nil {
			return errors.Join(err, os.Remove(path))
		}
	}
	address := "unix://" + path
	if p.address != "" {
		// containerd before 1.7 finds its shims by this file when it restarts.
		if err := atomicfile.WriteVolatile(filepath.Join(p.bundle, "address"), []byte(address), 0o600); err != nil {
			return err
		}
	}
	return printAddress(address, p)
}

// apiVersion is the newest version of the Task API that we serve.
const apiVersion = 3

// printAddress answers in the form that the caller understands, which containerd
// says in MAX_SHIM_VERSION: nothing is containerd 1.6, which wants the bare
// address.
func printAddress(address string, p parameters) error {
	version := apiVersion
	if p.address != "" {
		newest, err := strconv.Atoi(os.Getenv("MAX_SHIM_VERSION"))
		if err != nil {
			_, err := fmt.Print(address)
			return err
		}
		version = min(version, newest)
	}
	return json.NewEncoder(os.Stdout).Encode(bootstrap{Version: version, Address: address, Protocol: "ttrpc"})
}

// socketPath is the bundle's for straked. Under containerd, containers of one pod
// come to the same path and so to the same monitor.
func socketPath(p parameters) (string, error) {
	if p.address == "" {
		return filepath.Join(p.bundle, strakeSocket), nil
	}
	group, err := groupOf(p)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(containerdSockets, 0o711); err != nil {
		return "", err
	}
	// Not a cryptographic hash: its package costs every start more than a name
	// that only containerd chooses is worth.
	hash := fnv.New128a()
	_, _ = io.WriteString(hash, filepath.Join(p.address, p.namespace, group)) // never fails
	return filepath.Join(containerdSockets, hex.EncodeToString(hash.Sum(nil))), nil
}

// groupOf is the pod of a container, by the annotations that containerd and
// CRI-O put on it, or the container itself.
func groupOf(p parameters) (string, error) {
	f, err := os.Open(filepath.Join(p.bundle, "config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return p.id, nil // a sandbox that comes by the sandbox API has none yet
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read from only
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(io.LimitReader(f, 16<<20)).Decode(&spec); err != nil {
		return "", fmt.Errorf("%s: %w", f.Name(), err)
	}
	for _, key := range []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"} {
		if group := spec.Annotations[key]; group != "" {
			return group, nil
		}
	}
	return p.id, nil
}

// listen makes the socket, or returns nil if somebody serves it already. What a
// dead monitor left is replaced.
func listen(path string) (*net.UnixListener, error) {
	l, err := wire.Listen(path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if c, err := wire.Dial(context.Background(), path); err == nil {
		return nil, c.Close()
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return wire.Listen(path)
}

// spawn starts the serving copy of this program, in a session of its own, and
// leaves it to itself: when start exits it is nobody's child.
func spawn(p parameters, path string, listener *net.UnixListener) error {
	defer func() { _ = listener.Close() }() // the copy has its own
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }() // likewise
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }() // likewise
	log, err := openLog(p, null)
	if err != nil {
		return err
	}
	argv := []string{os.Args[0], "-namespace", p.namespace, "-id", p.id, "-address", p.address, "-bundle", p.bundle, "-socket", path}
	if p.debug {
		argv = append(argv, "-debug")
	}
	program, err := sealed()
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }() // the copy has its own
	process, err := os.StartProcess(sys.ExecPath(program), append(argv, serveAction), &os.ProcAttr{
		Dir:   "/", // it keeps nobody's mount busy
		Env:   append(os.Environ(), tuning...),
		Files: []*os.File{null, log, log, listenerFD: socket, programFD: program},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start the monitor: %w", err)
	}
	adjustOOMScore(process.Pid)
	return process.Release()
}

// sealed is this program's file for the serving copy to be executed from: one that
// no container can write to, should it ever get hold of it (CVE-2019-5736).
//
// Whoever gets a process of ours to execute /proc/self/exe inside a container, or
// may look into one that joins it, has our program in /proc/PID/exe, and root can
// open that for writing when nothing executes it any more. The child that becomes
// a container's process cannot be looked into and refuses to execute its own
// program, but it looks before it leaps: a symbolic link can be swapped in
// between; it does not see the interpreter of a script; and CAP_SYS_PTRACE without
// a user namespace looks into everything. A
// read-only mount ends all of that. It costs no memory and no second start.
func sealed() (*os.File, error) {
	f, err := sys.ReadOnlySelf()
	if err != nil {
		return nil, fmt.Errorf("protect the own program from containers: %w", err)
	}
	return f, nil
}

// tuning makes a monitor small: with one scheduler instead of two it has 0.6 MB
// less private memory, and it copies at the speed of one processor anyway.
var tuning = []string{"GOMAXPROCS=1"}

// openLog opens where the monitor's own messages go: with straked a file in the
// bundle, with containerd the FIFO that containerd reads, if debugging is on.
func openLog(p parameters, null *os.File) (*os.File, error) {
	if p.address == "" {
		return os.OpenFile(filepath.Join(p.bundle, "monitor.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	}
	// For reading too: it must not end, nor wait, with its reader. A message that
	// does not fit is lost.
	fd, err := syscall.Open(filepath.Join(p.bundle, "log"), syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil || !p.debug {
		return null, nil //nolint:nilerr // no log is no reason not to start
	}
	return os.NewFile(uintptr(fd), "log"), nil
}

// adjustOOMScore makes the kernel prefer the monitor to the daemon, by one point.
// It is a wish: raising the own score is always allowed, and inherited.
func adjustOOMScore(pid int) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || score >= 1000 {
		return
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score+1)), 0)
}
