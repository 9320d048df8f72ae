package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

// sendListener hands the listener of a process's seccomp filter to the agent
// (runtime-spec config-linux.md, "The Container Process State").
func sendListener(s *specs.Spec, state specs.State, pid int, f *os.File) error {
	sc := s.Linux.Seccomp
	if sc == nil || sc.ListenerPath == "" { // what says so need not be our program: launch.AwaitExec
		return errors.New("linux.seccomp.listenerPath: a listener that the config does not ask for")
	}
	data, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: sc.ListenerMetadata, State: state,
	})
	if err == nil {
		if err = sys.SendFile(sc.ListenerPath, data, f); err != nil {
			err = fmt.Errorf("failed to connect with seccomp agent: %w", err)
		}
	}
	if err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
	}
	return nil
}
