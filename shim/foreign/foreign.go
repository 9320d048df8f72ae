// Package foreign starts somebody else's containerd shim (runtime v2) and connects
// to it: gVisor's, Kata's, Firecracker's, containerd's own. It knows the contract of
// the shim's command line and nothing of containers; the calls are shim/task's.
//
// The contract: "start" is called in the bundle of the pod's first task, whose
// config.json is there, with the flags and the environment that containerd gives it,
// and prints where the shim listens, as JSON or, before version 3, as a bare address.
// "delete" removes what a shim that is gone has left of one task. The shim publishes
// its events to TTRPC_ADDRESS or by calling the publish binary. It finds a file for
// its log, or /dev/null, at the bundle's log.
package foreign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/shim/wire"
)

const (
	// maxAnswer bounds what a shim prints.
	maxAnswer = 64 << 10
	// maxVersion is the newest version of the Task API that is spoken here.
	maxVersion = 3
	// maxAddress is what a unix socket's path can have: shims have no way around it.
	maxAddress = 107
)

// Shim is a shim's program and what it is told about its caller.
type Shim struct {
	Path      string
	Namespace string
	Events    string // where it publishes, less ".ttrpc": containerd's -address
	Publisher string // the program that publishes for shims that do not speak ttrpc
	Debug     bool
	// Start starts a child that the caller collects with Wait and then reports; see
	// reap.Reaper.Start.
	Start func(*exec.Cmd) (collected func(), err error)
}

// Endpoint is where a shim listens, and the version of its Task API.
type Endpoint struct {
	Address string `json:"address"`
	Version int    `json:"version"`
}

// Launch starts a shim for the task whose bundle that is. Options are the encoded
// google.protobuf.Any that its Create gets as well, or nil.
func (s *Shim) Launch(ctx context.Context, id, bundle string, options []byte) (Endpoint, error) {
	if len(s.Events)+len(".ttrpc") > maxAddress {
		return Endpoint{}, fmt.Errorf("%s.ttrpc: a shim cannot use a socket whose path is longer than %d bytes: choose a shorter state directory", s.Events, maxAddress)
	}
	out, err := s.call(ctx, id, bundle, "", options, "start")
	if err != nil {
		return Endpoint{}, err
	}
	e, err := parseEndpoint(out)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%s start printed %.200q: %w", s.Path, out, err)
	}
	return e, nil
}

// Delete removes what a shim that is gone has left of a task, and returns what it
// printed: an encoded containerd.task.v2.DeleteResponse.
func (s *Shim) Delete(ctx context.Context, id, bundle string) ([]byte, error) {
	return s.call(ctx, id, bundle, bundle, nil, "delete")
}

func (s *Shim) call(ctx context.Context, id, dir, bundle string, stdin []byte, action string) ([]byte, error) {
	args := []string{"-namespace", s.Namespace, "-address", s.Events, "-publish-binary", s.Publisher, "-id", id}
	if bundle != "" {
		args = append(args, "-bundle", bundle)
	}
	if s.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.CommandContext(ctx, s.Path, append(args, action)...)
	cmd.Dir = dir
	cmd.Env = s.environment()
	cmd.SysProcAttr = newGroup
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	// Files, not pipes: the serving copy may keep them, and would be waited for.
	stdout, err := sys.NewMemFile("stdout")
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdout.Close() }() // memory
	stderr, err := sys.NewMemFile("stderr")
	if err != nil {
		return nil, err
	}
	defer func() { _ = stderr.Close() }() // likewise
	cmd.Stdout, cmd.Stderr = stdout, stderr
	collected, err := s.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", s.Path, action, err)
	}
	err = cmd.Wait()
	collected()
	out, readErr := beginning(stdout)
	if err != nil {
		said, _ := beginning(stderr) // what there is
		return nil, fmt.Errorf("%s %s: %w: %s", s.Path, action, err, strings.TrimSpace(string(append(said, out...))))
	}
	return out, readErr
}

// environment is what containerd's shims are told, and what they may need of ours.
func (s *Shim) environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GOMAXPROCS=") || strings.HasPrefix(kv, wire.PinsVariable+"=")
	})
	return append(env, "GOMAXPROCS=2", fmt.Sprintf("MAX_SHIM_VERSION=%d", maxVersion),
		"TTRPC_ADDRESS="+s.Events+".ttrpc", "GRPC_ADDRESS="+s.Events, "NAMESPACE="+s.Namespace)
}

func beginning(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxAnswer))
}

// parseEndpoint understands what start prints.
func parseEndpoint(out []byte) (Endpoint, error) {
	text := strings.TrimSpace(string(out))
	var b struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}
	if strings.HasPrefix(text, "{") {
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			return Endpoint{}, err
		}
	} else {
		b.Version, b.Address, b.Protocol = 2, text, "ttrpc"
	}
	switch {
	case b.Protocol != "ttrpc":
		return Endpoint{}, fmt.Errorf("it speaks %q: only ttrpc is supported", b.Protocol)
	case b.Version < 2 || b.Version > maxVersion:
		return Endpoint{}, fmt.Errorf("its Task API has version %d: 2 and 3 are supported", b.Version)
	case b.Address == "":
		return Endpoint{}, errors.New("no address")
	}
	if scheme, _, ok := strings.Cut(b.Address, "://"); ok && scheme != "unix" {
		return Endpoint{}, fmt.Errorf("it listens on %q: only unix sockets are supported", scheme)
	}
	return Endpoint{Address: b.Address, Version: b.Version}, nil
}

// Dial connects to a shim. An address without unix:// is an abstract socket's.
func (e Endpoint) Dial(ctx context.Context) (*wire.Mux, error) {
	path, ok := strings.CutPrefix(e.Address, "unix://")
	if !ok {
		path = "@" + path
	} else if !filepath.IsAbs(path) && !strings.HasPrefix(path, "@") {
		return nil, fmt.Errorf("shim's address %q: the path is not absolute", e.Address)
	}
	conn, err := wire.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return wire.NewMux(conn), nil
}

// Forget removes the socket of a shim that has been killed, which would have done so
// itself. DialErr is Dial's: nothing is removed unless it says that nobody listens.
func (e Endpoint) Forget(dialErr error) error {
	path, ok := strings.CutPrefix(e.Address, "unix://")
	if !ok || !filepath.IsAbs(path) || !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil // an abstract socket ends with its shim
	}
	st, err := os.Lstat(path)
	if err == nil && st.Mode().Type() == os.ModeSocket {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Service is the name of the shim's Task service.
func (e Endpoint) Service() string { return fmt.Sprintf("containerd.task.v%d.Task", e.Version) }
