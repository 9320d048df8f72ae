package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/shim/wire"
)

// StartOptions says which monitor to start. Bundle is the directory of the
// sandbox, which exists and is where the monitor makes its socket and its log.
type StartOptions struct {
	Binary    string // containerd-shim-strake-v2, a path or a name to find in PATH
	Namespace string
	ID        string // of the sandbox
	Bundle    string
	Pins      string // directory of the pins (sys.MakePins); "": nothing can adopt what it has
	StateDir  string // unused by Strake's own monitor
	Debug     bool
	Env       []string // added to a minimal environment
}

// bootstrap is what a shim's start command prints (runtime v2, version 3).
type bootstrap struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// Start starts a monitor and connects to it. The monitor is nobody's child and
// lives until ShutdownSandbox.
func Start(ctx context.Context, o StartOptions) (_ *Monitor, err error) {
	ctx, starting := span.Start(ctx, "start monitor")
	defer func() { starting.End(err) }()
	args := []string{"-namespace", o.Namespace, "-id", o.ID, "-address", ""}
	if o.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.CommandContext(ctx, o.Binary, append(args, "start")...)
	cmd.Dir = o.Bundle
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, o.Env...)
	if o.Pins != "" {
		cmd.Env = append(cmd.Env, wire.PinsVariable+"="+o.Pins)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = sys.AfterExit
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start monitor %s: %w: %w", o.ID, ErrNotStarted, err) // names the program
	}
	if err := sys.Ended(cmd.Wait()); err != nil {
		return nil, fmt.Errorf("start monitor %s: %s: %w: %s", o.ID, o.Binary, err, strings.TrimSpace(stderr.String()))
	}
	var b bootstrap
	if err := json.Unmarshal(stdout.Bytes(), &b); err != nil {
		return nil, fmt.Errorf("start monitor %s: %s printed %q: %w", o.ID, o.Binary, stdout.String(), err)
	}
	if b.Protocol != "ttrpc" || b.Version < 3 {
		return nil, fmt.Errorf("start monitor %s: %s speaks %s version %d: need ttrpc version 3", o.ID, o.Binary, b.Protocol, b.Version)
	}
	return Connect(ctx, b.Address)
}

// dial connects to a unix socket.
func dial(ctx context.Context, address string) (net.Conn, error) {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		return nil, errors.New("the address does not start with unix://")
	}
	return wire.Dial(ctx, path)
}
