package pod

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
)

// A checkpoint archive is a tar that is not compressed, of the form that CRI-O and
// containerd write and checkpointctl reads:
//
//	config.dump      which container it was, and of which image (archiveConfig)
//	spec.dump        its OCI config
//	checkpoint/      CRIU's images
//	rootfs-diff.tar  what it has written into its root
//	deleted.files    what it has deleted of its image, as a JSON list of paths
//	dump.log, stats-dump   of CRIU, for people
//
// It is as trusted as who made it: the processes in it come back with the privileges
// that they had. Its form is hostile all the same.
const (
	archiveConfigFile  = "config.dump"
	archiveSpecFile    = "spec.dump"
	archiveImages      = "checkpoint"
	archiveChanges     = "rootfs-diff.tar"
	archiveDeleted     = "deleted.files"
	archiveDumpLog     = "dump.log"
	archiveStats       = "stats-dump"
	maxArchiveDocument = 16 << 20 // of each of the JSON files
	maxArchiveEntries  = 100_000
)

// archiveConfig is config.dump, as far as it is of use.
type archiveConfig struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	ImageName      string    `json:"rootfsImage"`
	ImageRef       string    `json:"rootfsImageRef"`
	ImageID        string    `json:"rootfsImageName"`
	Runtime        string    `json:"runtime"`
	CreatedAt      time.Time `json:"createdTime"`
	CheckpointedAt time.Time `json:"checkpointedTime"`
}

// writeArchive makes a tar of the directory dir at location: whole or not at all.
func writeArchive(ctx context.Context, dir, location string) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(location), ".strake-checkpoint-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	out := tar.NewWriter(temp)
	err = filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		return addToArchive(out, at, name, e)
	})
	if err = errors.Join(err, out.Close()); err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), location); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(location))
}

func addToArchive(out *tar.Writer, at, name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: 0o600, ModTime: info.ModTime(), Format: tar.FormatPAX}
	switch {
	case e.IsDir():
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, name+"/", 0o700
		return out.WriteHeader(h)
	case !info.Mode().IsRegular():
		return nil // CRIU makes none but its link to a parent, of which there is none
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	_, err = io.CopyN(out, f, h.Size)
	return err
}

// openArchive opens the file at location, for its caller to close, and tells its size in
// bytes.
func openArchive(location string) (_ *os.File, size int64, err error) {
	in, err := os.OpenFile(location, os.O_RDONLY|syscall.O_NONBLOCK, 0) // no FIFO holds it up
	if err != nil {
		return nil, 0, err
	}
	info, err := in.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errorf(ErrInvalid, "%s is not a file", location)
	}
	if err != nil {
		return nil, 0, errors.Join(err, in.Close())
	}
	return in, info.Size(), nil
}

// readArchive writes what is of use in the archive at location into the new directory
// dir. Everything else in it is left out; a link in the place of a file is an error.
func readArchive(ctx context.Context, location, dir string) error {
	in, room, err := openArchive(location)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read from
	if err := os.MkdirAll(filepath.Join(dir, archiveImages), 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // a directory
	r := tar.NewReader(in)
	for range maxArchiveEntries {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errorf(ErrInvalid, "%s is not a tar, or is cut off: %v", location, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		if !ofUse(name) {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return errorf(ErrInvalid, "%s: %q is not a file", location, name)
		}
		if room -= h.Size; room < 0 { // a sparse file says that it is what it has not got
			return errorf(ErrInvalid, "%s: %q is larger than the archive", location, name)
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return errorf(ErrInvalid, "%s: %q: %v", location, name, err)
		}
		_, err = io.Copy(f, r)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %q: %w", location, name, err)
		}
	}
	return errorf(ErrInvalid, "%s has more than %d entries", location, maxArchiveEntries)
}

// glance reads what an archive says of itself from the archive, without its images.
func glance(location string) (*unpacked, error) {
	in, _, err := openArchive(location)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read from
	u, found := &unpacked{}, 0
	r := tar.NewReader(in)
	for range maxArchiveEntries {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errorf(ErrInvalid, "%s is not a tar, or is cut off: %v", location, err)
		}
		to := map[string]any{archiveConfigFile: &u.config, archiveSpecFile: &u.spec}[path.Clean(h.Name)]
		if to == nil || h.Typeflag != tar.TypeReg {
			continue
		}
		found++
		if err := json.NewDecoder(io.LimitReader(r, maxArchiveDocument)).Decode(to); err != nil {
			return nil, errorf(ErrInvalid, "%s: %s: %v", location, h.Name, err)
		}
	}
	if found != 2 {
		return nil, errorf(ErrInvalid, "%s: a %s and a %s are wanted", location, archiveConfigFile, archiveSpecFile)
	}
	return u, nil
}

// ofUse says that a restore reads the file of that clean name.
func ofUse(name string) bool {
	dir, file := path.Split(name)
	switch dir {
	case "":
		return slices.Contains([]string{archiveConfigFile, archiveSpecFile, archiveChanges, archiveDeleted}, file)
	case archiveImages + "/":
		return file != "" && file != ".."
	}
	return false
}

// unpacked is an archive that readArchive has written to dir, looked at.
type unpacked struct {
	dir     string
	config  archiveConfig
	spec    specs.Spec
	deleted []string
}

// lookAt reads what an unpacked archive says of itself.
func lookAt(dir string) (*unpacked, error) {
	u := &unpacked{dir: dir}
	for _, f := range []struct {
		name string
		to   any
	}{{archiveConfigFile, &u.config}, {archiveSpecFile, &u.spec}, {archiveDeleted, &u.deleted}} {
		data, err := sys.ReadFile(filepath.Join(dir, f.name), maxArchiveDocument)
		if errors.Is(err, fs.ErrNotExist) && f.name == archiveDeleted {
			continue // CRI-O writes none where nothing is
		}
		if err == nil {
			err = json.Unmarshal(data, f.to)
		}
		if err != nil {
			return nil, errorf(ErrInvalid, "checkpoint archive: %s: %v", f.name, err)
		}
	}
	images, err := os.ReadDir(filepath.Join(dir, archiveImages))
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, errorf(ErrInvalid, "checkpoint archive: no %s/ in it", archiveImages)
	}
	return u, nil
}

// changes is rootfs-diff.tar as a layer, in a file of no name: with a whiteout for what
// was deleted. It is nil if there is neither.
func (u *unpacked) changes(ctx context.Context, temp string) (_ *os.File, err error) {
	in, err := os.Open(filepath.Join(u.dir, archiveChanges))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil && len(u.deleted) == 0 {
		return nil, nil
	}
	out, err := os.CreateTemp(temp, "changes-")
	if err != nil {
		return nil, errors.Join(err, closeIf(in))
	}
	defer func() {
		err = errors.Join(err, closeIf(in), os.Remove(out.Name()))
		if err != nil {
			_ = out.Close() // it is of no use
		}
	}()
	w := tar.NewWriter(out)
	if in != nil {
		if err := copyTar(ctx, w, in); err != nil {
			return nil, errorf(ErrInvalid, "checkpoint archive: %s: %v", archiveChanges, err)
		}
	}
	for _, name := range u.deleted {
		name = path.Clean("/" + name)[1:]
		if name == "" {
			return nil, errorf(ErrInvalid, "checkpoint archive: %s has the root", archiveDeleted)
		}
		dir, file := path.Split(name)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + ".wh." + file, Mode: 0o600, Format: tar.FormatPAX}); err != nil {
			return nil, errorf(ErrInvalid, "checkpoint archive: %s: %q: %v", archiveDeleted, name, err)
		}
	}
	return out, w.Close()
}

// copyTar copies the entries of a tar. They have no more content than it has bytes.
func copyTar(ctx context.Context, to *tar.Writer, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	room := info.Size()
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			if room -= h.Size; room < 0 {
				err = fmt.Errorf("%q is larger than the whole", h.Name)
			}
		}
		if err == nil {
			err = to.WriteHeader(h)
		}
		if err == nil {
			_, err = io.Copy(to, r)
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

func closeIf(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}
