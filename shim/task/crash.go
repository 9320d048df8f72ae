package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/container"
)

// RemoveCrashed removes a container whose monitor has died, alive or not, and
// writes what the shim's delete command prints: a DeleteResponse. How the
// container ended is what its exit.json says, or SIGKILL. It is not an error if
// there is nothing to remove.
func RemoveCrashed(ctx context.Context, id, bundle, defaultRoot string, out io.Writer) error {
	root := defaultRoot
	var r taskRecord
	err := readRecord(filepath.Join(bundle, taskFile), &r)
	if err == nil {
		root = r.StateRoot
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("container %s: find its state: %w", id, err)
	}
	c, err := container.Load(root, id)
	if err == nil {
		err = c.Delete(ctx, true)
	}
	if err != nil && !errors.Is(err, container.ErrNotExist) && !errors.Is(err, container.ErrPoststop) {
		return fmt.Errorf("container %s: %w", id, err)
	}
	answer := &deleteResponse{ExitStatus: 128 + uint32(syscall.SIGKILL), ExitedAt: stamp(time.Now())}
	var e exitRecord
	if data, err := os.ReadFile(filepath.Join(bundle, exitFile)); err == nil && json.Unmarshal(data, &e) == nil {
		answer = &deleteResponse{Pid: uint32(e.Pid), ExitStatus: uint32(e.ExitStatus), ExitedAt: stamp(e.ExitedAt)}
	}
	data, err := pb.Marshal(answer)
	if err == nil {
		_, err = out.Write(data)
	}
	return err
}
