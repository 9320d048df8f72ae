package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/foreign"
)

// What a monitor writes down for the one that replaces it, if it is killed, and
// for the delete command. All of it dies with the boot; docs/format/pods.md.
const (
	sandboxFile = "sandbox.json" // in the pod's bundle
	taskFile    = "task.json"    // in the container's
	execsDir    = "execs"        // there, too: one file for each exec that runs
)

// maxRecordFile bounds what is read of them.
const maxRecordFile = 64 << 10

type sandboxRecord struct {
	CreatedAt time.Time `json:"createdAt"`
	StoppedAt time.Time `json:"stoppedAt,omitzero"`
}

// taskRecord is there before anything of the container is, and again with
// StartedAt once it runs.
type taskRecord struct {
	StateRoot   string `json:"stateRoot"` // of oci/container
	Terminal    bool   `json:"terminal,omitempty"`
	Stdin       string `json:"stdin,omitempty"`
	Stdout      string `json:"stdout,omitempty"`
	Stderr      string `json:"stderr,omitempty"`
	StdinOnce   bool   `json:"stdinOnce,omitempty"`
	LogMaxBytes int64  `json:"logMaxBytes,omitempty"`
	// CountForbidden and StopForbidden are as in CreateOptions.
	CountForbidden bool      `json:"countForbidden,omitempty"`
	StopForbidden  bool      `json:"stopForbidden,omitempty"`
	CreatedAt      time.Time `json:"createdAt"`
	StartedAt      time.Time `json:"startedAt,omitzero"`
	// Pid and StartTime (of /proc/PID/stat) are of an OCI runtime's program's init.
	Pid       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"startTime,omitempty"`
	// Endpoint is the foreign shim's that has it, if that is not its pod's.
	Endpoint foreign.Endpoint `json:"endpoint,omitzero"`
}

type execRecord struct {
	Pid       int       `json:"pid"`
	StartTime uint64    `json:"startTime"` // of /proc/PID/stat
	Silent    bool      `json:"silent,omitempty"`
	Terminal  bool      `json:"terminal,omitempty"`
	Stdin     string    `json:"stdin,omitempty"`
	Stdout    string    `json:"stdout,omitempty"`
	Stderr    string    `json:"stderr,omitempty"`
	StartedAt time.Time `json:"startedAt"`
}

// taskFile is the name of a container's record: another than our own as a foreign shim
// would give it, which might be the one that is driven.
func (h *handler) taskFile() string {
	if h.Shim != "" {
		return "foreign-" + taskFile
	}
	return taskFile
}

func (t *task) recordPath() string { return filepath.Join(t.bundle, podHandler(t.pod).taskFile()) }

// writeRecord replaces a record. Not fsynced: it is below /run.
func writeRecord(path string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return atomicfile.WriteVolatile(path, data, 0o600)
}

// readRecord reads one. It is fs.ErrNotExist if there is none.
func readRecord(path string, record any) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Size() > maxRecordFile {
		return fmt.Errorf("%s: %d bytes: the limit is %d", path, st.Size(), maxRecordFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, record); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// execPath is where the record of an exec is. Its id may be anything.
func (t *task) execPath(p *process) string {
	return filepath.Join(t.bundle, execsDir, fmt.Sprintf("%x", p.execID))
}

// recordExec writes down an exec that runs.
func (t *task) recordExec(p *process) error {
	if !t.service.adoptable() {
		return nil
	}
	var start uint64
	if p.shim == nil { // a foreign shim's need not be a process of this host
		var err error
		if start, err = container.StartTime(p.pid); err != nil {
			return nil //nolint:nilerr // it has ended
		}
	}
	write := func() error {
		return writeRecord(t.execPath(p), &execRecord{
			Pid: p.pid, StartTime: start, Silent: p.silent, Terminal: p.terminal,
			Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr, StartedAt: time.Now(),
		})
	}
	err := write()
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(filepath.Join(t.bundle, execsDir), 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			err = write()
		}
	}
	return err
}

// forgetExec removes the record.
func (t *task) forgetExec(p *process) {
	if t.service.adoptable() {
		_ = os.Remove(t.execPath(p)) // it may have none
	}
}
