package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// Tree are directories that lie over each other, topmost first.
type Tree struct {
	Dirs []string
	Form Form
	// Owner gives the owner that an entry has for whoever uses the tree, if its
	// files have others on the disk; nil: they have not.
	Owner func(e Entry) (uid, gid uint32)
}

// Export writes the tar of a tree: what overlayfs shows of it, without sockets.
// The topmost directory may be written to meanwhile: a file that shrinks then is
// filled up with zeros.
func (t Tree) Export(ctx context.Context, to io.Writer) error {
	out := tar.NewWriter(to)
	links := map[linkKey]string{}
	err := Walk(t.Dirs, t.Form, func(e Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Path == "" || e.Stat.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
			return nil
		}
		if err := t.export(out, e, links); err != nil && !gone(err) {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		return nil
	})
	return errors.Join(err, out.Close())
}

func (t Tree) export(out *tar.Writer, e Entry, links map[linkKey]string) error {
	h := tar.Header{
		Name: e.Path, Mode: int64(e.Stat.Mode & permBits), Uid: int(e.Stat.UID), Gid: int(e.Stat.GID), ModTime: e.Stat.Mtime,
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	if t.Owner != nil {
		uid, gid := t.Owner(e)
		h.Uid, h.Gid = int(uid), int(gid)
	}
	key := linkKey{e.Layer, e.Stat.Ino}
	if first, ok := links[key]; ok && !e.Stat.IsDir() {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return out.WriteHeader(&h)
	}
	attrs, err := sys.XattrsAt(e.Dir, e.Name)
	if err != nil {
		return err
	}
	for attr, value := range attrs {
		// What Unpack takes.
		if attr == "security.capability" || strings.HasPrefix(attr, "user.") && !own(attr) || strings.HasPrefix(attr, "system.posix_acl_") {
			h.PAXRecords[xattrPrefix+attr] = string(value)
		}
	}
	switch e.Stat.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case syscall.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = sys.ReadlinkAt(e.Dir, e.Name); err != nil {
			return err
		}
	case syscall.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case syscall.S_IFCHR:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Stat.Major), int64(e.Stat.Minor)
	case syscall.S_IFBLK:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(e.Stat.Major), int64(e.Stat.Minor)
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Stat.Size
		f, err := sys.OpenFileAt(e.Dir, e.Name)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read from
		// It may be another file by now, or a FIFO.
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return errors.Join(err, syscall.ENOENT)
		}
		if err := out.WriteHeader(&h); err != nil {
			return err
		}
		n, err := io.CopyN(out, f, h.Size)
		if errors.Is(err, io.EOF) {
			_, err = io.CopyN(out, zeros{}, h.Size-n)
		}
		if err == nil && e.Stat.Nlink > 1 {
			links[key] = e.Path
		}
		return err
	}
	if e.Stat.Nlink > 1 && !e.Stat.IsDir() {
		links[key] = e.Path
	}
	return out.WriteHeader(&h)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Change is one difference between two trees.
type Change struct {
	Kind byte   // 'A' added, 'C' changed, 'D' deleted, as docker diff has them
	Path string // from "/"
}

// Diff tells how a tree differs from the one that it was made of: all that was
// added and changed, and the topmost of what was deleted, by name. A directory has
// changed if its attributes have, or something in it. Shared is the number of
// directories, the lowest of this tree and all of the other, that are the same: what
// comes from them is not looked at.
func (t Tree) Diff(ctx context.Context, from Tree, shared int) ([]Change, error) {
	now, err := newWalker(t.Dirs, t.Form)
	defer now.close()
	if err != nil {
		return nil, err
	}
	was, err := newWalker(from.Dirs, from.Form)
	defer was.close()
	if err != nil {
		return nil, err
	}
	d := &differ{ctx: ctx, now: now, was: was, own: len(t.Dirs) - shared, owner: t.Owner}
	err = d.directory("", now.all(), was.all(), 0)
	return d.changes, err
}

type differ struct {
	ctx      context.Context
	now, was *walker
	own      int // layers of now that was has not
	owner    func(Entry) (uid, gid uint32)
	changes  []Change
}

// side is one name on one side.
type side struct {
	there  bool
	stat   sys.Stat
	layer  int
	layers []int
}

func (d *differ) directory(name string, now, was []int, depth int) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	if depth > maxDepth {
		return fmt.Errorf("%w: more than %d directories in each other", ErrLimit, maxDepth)
	}
	pairs := map[string]*[2]side{}
	var names []string
	for i, w := range []*walker{d.now, d.was} {
		within := [][]int{now, was}[i]
		if len(within) == 0 {
			continue
		}
		err := w.list(name, within, func(e Entry, layers []int) error {
			if pairs[e.Name] == nil {
				pairs[e.Name] = &[2]side{}
				names = append(names, e.Name)
			}
			if i == 0 && d.owner != nil {
				e.Stat.UID, e.Stat.GID = d.owner(e)
			}
			pairs[e.Name][i] = side{true, e.Stat, e.Layer, layers}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if err := d.entry(path.Join(name, n), pairs[n][0], pairs[n][1], depth); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) entry(name string, now, was side, depth int) error {
	at := len(d.changes)
	tell := func(kind byte) { d.changes = slices.Insert(d.changes, at, Change{kind, "/" + name}) }
	bothDirs := now.there && was.there && now.stat.IsDir() && was.stat.IsDir()
	switch {
	case !now.there:
		tell('D')
		return nil
	case was.there && now.layer >= d.own && !now.stat.IsDir():
		return nil // the same file
	case bothDirs && now.layers[0] >= d.own:
		return nil // no part of it is its own
	}
	if now.stat.IsDir() {
		below := was.layers
		if !bothDirs {
			below = nil
		}
		if err := d.directory(name, now.layers, below, depth+1); err != nil {
			return err
		}
	}
	switch {
	case !was.there:
		tell('A')
	case len(d.changes) > at, changed(now.stat, was.stat), !now.stat.IsDir() && d.own < len(d.now.roots):
		// A file that an overlay has copied up was opened for writing.
		tell('C')
	}
	return nil
}

// changed is what a look at the attributes says; the size and time of a directory
// say nothing.
func changed(a, b sys.Stat) bool {
	return a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Major != b.Major || a.Minor != b.Minor ||
		!a.IsDir() && (a.Size != b.Size || !a.Mtime.Equal(b.Mtime))
}
