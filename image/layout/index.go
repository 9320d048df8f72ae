package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
)

const (
	nextFile = "index.next.json" // the index that is on its way to index.json
	fresh    = ".new"            // behind a name: what is to replace the file
	spare    = ".spare"          // behind a name: room for that where the disk has none
	maxIndex = 64 << 20
)

// change is an index that is on its way to the device.
type change struct {
	index   v1.Index
	flushed func() // told when it has arrived
}

// nextIndex is index.next.json.
type nextIndex struct {
	BootID string   `json:"bootID"` // of the only boot in which it counts
	Index  v1.Index `json:"index"`
}

func newIndex(entries []v1.Descriptor) v1.Index {
	if entries == nil {
		entries = []v1.Descriptor{} // the specification wants the field
	}
	return v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: entries}
}

func (l *Layout) indexPath() string { return filepath.Join(l.root, v1.ImageIndexFile) }

func (l *Layout) nextPath() string { return filepath.Join(l.root, nextFile) }

// openIndex finishes what another process of this boot left on its way to index.json, and
// sees to it that the index can get smaller on a full disk.
func (l *Layout) openIndex() error {
	data, err := sys.ReadFile(l.nextPath(), maxIndex)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var next nextIndex // of another boot it may be torn
	if err := json.Unmarshal(data, &next); err == nil && next.BootID == l.bootID {
		if err := l.writeIndex(next.Index); err != nil {
			l.notFlushed(err)
			l.next = &change{next.Index, func() {}}
		} else {
			l.voidNext()
		}
	}
	if err := l.makeRoom(); err != nil { // a full disk is no reason not to start
		l.log.Warn("no room is set aside for the image index: images may not be removable from a full disk", "error", err)
	}
	return nil
}

// makeRoom sets room aside for the index that is there; without one it makes an empty one.
func (l *Layout) makeRoom() error {
	info, err := os.Stat(l.indexPath())
	if errors.Is(err, fs.ErrNotExist) {
		if err = l.writeIndex(newIndex(nil)); err == nil {
			info, err = os.Stat(l.indexPath())
		}
	}
	if err != nil {
		return err
	}
	l.indexSize = info.Size() + int64(len(l.voidIndex()))
	return l.setRoomAside(l.indexSize)
}

func (l *Layout) notFlushed(err error) {
	l.log.Warn("image index not flushed: a power cut undoes its last changes", "error", err)
}

// voidIndex is how an index.next.json begins that counts in no boot, as long as one that does.
func (l *Layout) voidIndex() []byte {
	return []byte(`{"bootID":"` + strings.Repeat("0", len(l.bootID)) + `"`)
}

// setRoomAside gives each file of the index, and its spare, blocks for n bytes.
func (l *Layout) setRoomAside(n int64) error {
	for _, path := range []string{l.indexPath(), l.indexPath() + spare, l.nextPath(), l.nextPath() + spare} {
		f, err := sys.OpenInPlace(path)
		if err != nil {
			return err
		}
		if err := errors.Join(sys.SetBlocksAside(f, n), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// ReadIndex gives the entries of index.json; a new layout has none.
func ReadIndex(root string) ([]v1.Descriptor, error) {
	path := filepath.Join(root, v1.ImageIndexFile)
	data, err := sys.ReadFile(path, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	}
	return index.Manifests, nil
}

// SetIndexAside renames an index.json that cannot be read, for a person to look
// at, and returns where to. The index is empty then.
func (l *Layout) SetIndexAside() (string, error) {
	aside := l.indexPath() + ".broken"
	if err := os.Rename(l.indexPath(), aside); err != nil {
		return aside, err
	}
	return aside, l.writeIndex(newIndex(nil))
}

// Index gives the entries of the index.
func (l *Layout) Index() ([]v1.Descriptor, error) {
	l.indexMu.Lock()
	defer l.indexMu.Unlock()
	if l.next != nil {
		return l.next.index.Manifests, nil
	}
	return ReadIndex(l.root)
}

// Flushed reports whether the index is that of index.json, and not on its way there.
func (l *Layout) Flushed() bool {
	l.indexMu.Lock()
	defer l.indexMu.Unlock()
	return l.next == nil
}

// SetIndex replaces all entries of the index, for this process and whichever opens the
// layout next, and does not wait for the device: until flushed is called, from another
// goroutine, a power cut leaves the index of before. It is not called if this one was
// replaced before it was written, or cannot be. An index that is not larger than the one
// before takes no space.
func (l *Layout) SetIndex(entries []v1.Descriptor, flushed func()) error {
	index := newIndex(entries)
	data, err := json.Marshal(nextIndex{l.bootID, index})
	if err != nil {
		return err
	}
	size := int64(len(data))
	if size > maxIndex {
		return fmt.Errorf("%s: %d entries are too many", l.indexPath(), len(entries))
	}
	l.indexMu.Lock()
	defer l.indexMu.Unlock()
	if size > l.indexSize {
		if err := l.setRoomAside(size); err != nil {
			return fmt.Errorf("room to remove images from a full disk: %w", err)
		}
	}
	if err := replace(l.nextPath(), data, false); err != nil {
		return err
	}
	l.indexSize = size
	l.next = &change{index, flushed}
	if !l.flushing {
		l.flushing = true
		l.work.Go(l.flushIndex)
	}
	return nil
}

// flushIndex makes index.json the index of now, until nobody has changed it meanwhile.
func (l *Layout) flushIndex() {
	l.indexMu.Lock()
	defer l.indexMu.Unlock()
	defer func() { l.flushing = false }()
	for l.next != nil {
		next := l.next
		l.indexMu.Unlock()
		err := l.writeIndex(next.index)
		if err == nil {
			next.flushed()
		}
		l.indexMu.Lock()
		switch {
		case l.next != next:
		case err != nil:
			l.notFlushed(err)
			return
		default:
			l.next = nil
			l.voidNext()
		}
	}
}

// closeIndex writes what flushIndex could not.
func (l *Layout) closeIndex() error {
	if l.next == nil {
		return nil
	}
	if err := l.writeIndex(l.next.index); err != nil {
		return err
	}
	l.next.flushed()
	l.next = nil
	l.voidNext()
	return nil
}

// voidNext makes index.next.json that of no boot, where it lies: it is room for the next
// one. If that fails it says what index.json does.
func (l *Layout) voidNext() {
	f, err := os.OpenFile(l.nextPath(), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	_, _ = f.WriteAt(l.voidIndex(), 0)
	_ = f.Close()
}

// writeIndex replaces index.json and waits for the device.
func (l *Layout) writeIndex(index v1.Index) error {
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return replace(l.indexPath(), data, true)
}

// replace replaces a file whole. Where there is no space for a new one the spare becomes it,
// and the old one the spare: whoever removes images from a full disk needs none, even if
// somebody takes at once all that becomes free.
func replace(path string, data []byte, durable bool) error {
	from, put := path+fresh, os.Rename
	err := fill(from, data, durable)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		_ = os.Remove(from) // what stays is written over
		from, put = path+spare, exchange
		err = fill(from, data, durable)
	}
	if err == nil {
		err = put(from, path)
	}
	if err == nil && durable {
		err = atomicfile.SyncDir(filepath.Dir(path))
	}
	return err
}

// exchange has two files change places. One becomes the other if that is not there, or the
// file system cannot do it (ZFS before 2.2, NFS).
func exchange(from, to string) error {
	if sys.Exchange(from, to) == nil {
		return nil
	}
	return os.Rename(from, to)
}

// fill makes data the content of a file, in the blocks that it has.
func fill(path string, data []byte, durable bool) error {
	f, err := sys.OpenInPlace(path)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil && durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
