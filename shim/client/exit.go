package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/strake-containers/strake/shim/wire"
)

// ExitFile is the name of the file in a container's bundle that the monitor
// writes, atomically, when the container's init process has ended and before any
// Wait returns.
const ExitFile = "exit.json"

// maxExitFile bounds what ReadExit reads.
const maxExitFile = 64 << 10

// Exit is how a process ended. Status is its exit code, or 128 plus the signal.
// The fields below At are known for a container's init only, and only from
// exit.json. Lost says that nobody has seen the end, so that Status is a guess.
type Exit struct {
	Status    int       `json:"exitStatus"`
	At        time.Time `json:"exitedAt"`
	Signal    int       `json:"signal"`
	OOMKilled bool      `json:"oomKilled"`
	Pid       int       `json:"pid"`
	Lost      bool      `json:"lost,omitempty"`
	StartedAt time.Time `json:"startedAt,omitzero"`  // zero: never, or not known
	Forbidden bool      `json:"forbidden,omitempty"` // killed for calls that its seccomp profile forbids
}

// ReadExit reads how the container of a bundle ended. The error is ErrNotFound
// while it has not.
func ReadExit(bundle string) (Exit, error) {
	path := filepath.Join(bundle, ExitFile)
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(ErrNotFound, err)
		}
		return Exit{}, fmt.Errorf("read exit: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxExitFile))
	if err != nil {
		return Exit{}, fmt.Errorf("read exit: %w", err)
	}
	var e Exit
	if err := json.Unmarshal(data, &e); err != nil {
		return Exit{}, fmt.Errorf("read exit: %s: %w", path, err)
	}
	return e, nil
}

// Forbidden reads which system calls of the container of a bundle its seccomp profile
// forbade, and how often: of one that was created with CountForbidden. It may run.
func Forbidden(bundle string) (map[string]uint64, error) {
	f, err := os.Open(filepath.Join(bundle, wire.Forbidden))
	if err != nil {
		return nil, fmt.Errorf("read forbidden calls: %w", err)
	}
	defer func() { _ = f.Close() }() // read from only
	data, err := io.ReadAll(io.LimitReader(f, wire.ForbiddenSize))
	if err != nil {
		return nil, fmt.Errorf("read forbidden calls: %w", err)
	}
	return wire.ForbiddenOf(data), nil
}
