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
	"strings"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/container"
)

// RemoveCrashed removes a container whose monitor has died, alive or not, and
// writes what the shim's delete command prints: a DeleteResponse. How the
// container ended is what its exit.json says, or SIGKILL. It is not an error if
// there is nothing to remove.
//
// Handled says that another handler than this program may have made it (straked's
// pods have that on record).
func RemoveCrashed(ctx context.Context, namespace, id, bundle, defaultRoot string, handled bool, out io.Writer) error {
	var h handler
	var err error
	if handled { // the pod's own record, or that of a container's pod
		if h, err = loadHandler(bundle); err == nil && h.native() {
			h, err = loadHandler(filepath.Dir(bundle))
		}
	}
	if err != nil {
		return fmt.Errorf("container %s: find its handler: %w", id, err)
	}
	if own := strings.HasSuffix(id, "-pause") && h.Shim == ""; !own && !h.native() {
		ended, err := removeHandled(ctx, h, namespace, id, bundle)
		if err != nil {
			return fmt.Errorf("container %s: %w", id, err)
		}
		return answerCrashed(bundle, ended, out)
	}
	root := defaultRoot
	var r taskRecord
	err = readRecord(filepath.Join(bundle, taskFile), &r)
	if err == nil {
		root = r.StateRoot
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("container %s: find its state: %w", id, err)
	}
	for _, id := range []string{id, id + "-pause"} { // if it is a sandbox
		c, err := container.Load(root, id)
		if err == nil {
			err = c.Delete(ctx, true)
		}
		if err != nil && !errors.Is(err, container.ErrNotExist) && !errors.Is(err, container.ErrPoststop) {
			return fmt.Errorf("container %s: %w", id, err)
		}
	}
	return answerCrashed(bundle, nil, out)
}

// answerCrashed writes how a container ended: as its exit.json says, or as its handler
// does.
func answerCrashed(bundle string, ended *deleteResponse, out io.Writer) error {
	answer := &deleteResponse{ExitStatus: 128 + uint32(syscall.SIGKILL), ExitedAt: stamp(time.Now())}
	if ended != nil {
		answer = ended
	}
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
