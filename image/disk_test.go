package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// disk is a block device with a write cache that it may lose: an ext4 below a loop
// device, whose file is that of a FUSE file system of the test's own. So the test knows
// what has been written and what of it a flush has made last.
type disk struct {
	file string // what the loop device is of

	mu     sync.Mutex
	blocks [][]byte       // what is on the medium; nil is zeroes
	cached []block        // written since the last flush, in this order
	newest map[int][]byte // of cached, by place
	held   []uint64       // flushes that wait for release; nil: they are answered at once
	waits  chan struct{}
	server *os.File
}

// block is a write of one block, which is whole on the medium or not at all.
type block struct {
	at   int
	data []byte
}

const (
	diskBlock  = 4096
	diskBlocks = 48 << 20 / diskBlock
)

// The parts of include/uapi/linux/fuse.h that a file system of one file needs.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseOpen        = 14
	fuseRead        = 15
	fuseWrite       = 16
	fuseRelease     = 18
	fuseFsync       = 20
	fuseFlush       = 25
	fuseInit        = 26
	fuseInterrupt   = 36
	fuseBatchForget = 42

	fuseInHeader  = 40 // struct fuse_in_header
	fuseOutHeader = 16 // struct fuse_out_header
	fuseWriteIn   = 40 // struct fuse_write_in
	fuseBigWrites = 1 << 5
	fuseDirectIO  = 1 // FOPEN_DIRECT_IO
	fuseMaxWrite  = 128 << 10
	fuseRootID    = 1
	fuseFileID    = 2
	fuseFileName  = "disk\x00"
)

// newDisk makes a disk with an empty ext4 and mounts that with more options until the
// test ends. Ext4's help for programs that rename without fsync is off.
func newDisk(t *testing.T, on, options string) *disk {
	t.Helper()
	d := &disk{blocks: make([][]byte, diskBlocks), newest: map[int][]byte{}}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.Truncate(empty, diskBlocks*diskBlock)); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=1,lazy_journal_init=1", empty)
	image, err := os.ReadFile(empty)
	if err != nil {
		t.Fatal(err)
	}
	for at := range d.blocks {
		d.keep(block{at, image[at*diskBlock:][:diskBlock]})
	}
	// Not by os.OpenFile: Go's poller would find an error on what is not mounted yet.
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	d.server = os.NewFile(uintptr(fd), "/dev/fuse")
	dir := t.TempDir()
	d.file = filepath.Join(dir, "disk")
	if err := syscall.Mount("disk", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)); err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(d.serve)
	t.Cleanup(func() {
		// By force: the loop device lets go of the file later, and another process may
		// have copied the mount.
		if err := syscall.Unmount(dir, syscall.MNT_FORCE|syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		served.Wait()
	})
	command(t, "mount", "-o", "loop,noauto_da_alloc,commit=1,"+options, d.file, on)
	t.Cleanup(func() {
		d.release()
		if err := syscall.Unmount(on, 0); err != nil {
			t.Error(err)
		}
	})
	return d
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// keep puts a block on the medium.
func (d *disk) keep(b block) {
	d.blocks[b.at] = nil
	for _, c := range b.data {
		if c != 0 {
			d.blocks[b.at] = append([]byte(nil), b.data...)
			return
		}
	}
}

// cutPower writes to a new file what the medium would have if the power went now: all
// that was flushed and any part of the rest, as a device writes its cache in any order.
func (d *disk) cutPower(t *testing.T, to string) {
	t.Helper()
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	after := append([][]byte(nil), d.blocks...)
	luck := rand.Float64() // 0: the cache is lost, 1: it was written
	for _, b := range d.cached {
		if rand.Float64() < luck {
			after[b.at] = b.data
		}
	}
	err = f.Truncate(diskBlocks * diskBlock)
	for at, data := range after {
		if data != nil && err == nil {
			_, err = f.WriteAt(data, int64(at)*diskBlock)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// hold makes the next flush wait, and with it whoever wants to write to the disk, until
// release; waiting is closed when it does.
func (d *disk) hold() (waiting <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.waits = []uint64{}, make(chan struct{})
	return d.waits
}

func (d *disk) release() {
	d.mu.Lock()
	held := d.held
	d.held = nil
	d.mu.Unlock()
	for _, unique := range held {
		d.flush(unique)
	}
}

// flush answers a flush.
func (d *disk) flush(unique uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		d.held = append(d.held, unique)
		if len(d.held) == 1 {
			close(d.waits)
		}
		return
	}
	for at, data := range d.newest {
		d.keep(block{at, data})
	}
	d.cached = nil
	clear(d.newest)
	d.answer(unique, 0, nil)
}

func (d *disk) answer(unique uint64, errno syscall.Errno, body []byte) {
	out := binary.NativeEndian.AppendUint32(nil, uint32(fuseOutHeader+len(body)))
	out = binary.NativeEndian.AppendUint32(out, uint32(-int32(errno)))
	out = binary.NativeEndian.AppendUint64(out, unique)
	_, _ = d.server.Write(append(out, body...)) // who asked may have gone
}

// attr is a struct fuse_attr.
func attr(id uint64, mode uint32) []byte {
	size := uint64(0)
	if id == fuseFileID {
		size = diskBlocks * diskBlock
	}
	a := binary.NativeEndian.AppendUint64(nil, id)
	a = binary.NativeEndian.AppendUint64(a, size)
	a = append(a, make([]byte, 60-16)...) // blocks and times
	a = binary.NativeEndian.AppendUint32(a, mode)
	a = binary.NativeEndian.AppendUint32(a, 1) // links
	return append(a, make([]byte, 88-len(a))...)
}

func attrOf(id uint64) []byte {
	if id == fuseFileID {
		return attr(id, syscall.S_IFREG|0o600)
	}
	return attr(id, syscall.S_IFDIR|0o700)
}

// serve answers the kernel until the file system is unmounted.
func (d *disk) serve() {
	defer d.server.Close()
	request := make([]byte, fuseInHeader+fuseWriteIn+fuseMaxWrite+diskBlock)
	for {
		n, err := d.server.Read(request)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINTR) { // who asked has gone
			continue
		}
		if err != nil || n < fuseInHeader {
			return
		}
		d.serveOne(request[:n])
	}
}

func (d *disk) serveOne(request []byte) {
	order := binary.NativeEndian
	body := request[fuseInHeader:]
	unique, node := order.Uint64(request[8:]), order.Uint64(request[16:])
	const forever = 1 << 30 // seconds
	switch order.Uint32(request[4:]) {
	case fuseInit:
		out := make([]byte, 64)
		order.PutUint32(out[0:], 7)
		order.PutUint32(out[4:], 31)
		order.PutUint32(out[12:], fuseBigWrites)
		order.PutUint32(out[20:], fuseMaxWrite)
		d.answer(unique, 0, out)
	case fuseLookup:
		if string(body) != fuseFileName {
			d.answer(unique, syscall.ENOENT, nil)
			return
		}
		out := order.AppendUint64(nil, fuseFileID)
		out = append(out, make([]byte, 8)...)  // generation
		out = order.AppendUint64(out, forever) // of the entry
		out = order.AppendUint64(out, forever) // of the attributes
		out = append(out, make([]byte, 8)...)  // and nanoseconds
		d.answer(unique, 0, append(out, attrOf(fuseFileID)...))
	case fuseGetattr:
		out := order.AppendUint64(nil, forever)
		out = append(out, make([]byte, 8)...)
		d.answer(unique, 0, append(out, attrOf(node)...))
	case fuseOpen:
		out := make([]byte, 16)
		order.PutUint32(out[8:], fuseDirectIO)
		d.answer(unique, 0, out)
	case fuseRead:
		d.answer(unique, 0, d.read(int(order.Uint64(body[8:])), int(order.Uint32(body[16:]))))
	case fuseWrite:
		size := int(order.Uint32(body[16:]))
		d.write(int(order.Uint64(body[8:])), body[fuseWriteIn:][:size])
		d.answer(unique, 0, append(order.AppendUint32(nil, uint32(size)), 0, 0, 0, 0))
	case fuseFsync:
		d.flush(unique)
	case fuseFlush, fuseRelease:
		d.answer(unique, 0, nil)
	case fuseForget, fuseBatchForget, fuseInterrupt: // want no answer
	default:
		d.answer(unique, syscall.ENOSYS, nil)
	}
}

// read gives what was written last, of whole blocks or parts of them.
func (d *disk) read(from, size int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]byte, 0, size)
	for len(out) < size {
		at, skip := (from+len(out))/diskBlock, (from+len(out))%diskBlock
		out = append(out, d.now(at)[skip:][:min(size-len(out), diskBlock-skip)]...)
	}
	return out
}

// now is a block as it was written last; mu is held.
func (d *disk) now(at int) []byte {
	if data, ok := d.newest[at]; ok {
		return data
	}
	if d.blocks[at] == nil {
		return make([]byte, diskBlock)
	}
	return d.blocks[at]
}

func (d *disk) write(to int, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(data) > 0 {
		at, skip := to/diskBlock, to%diskBlock
		n := min(len(data), diskBlock-skip)
		whole := append([]byte(nil), d.now(at)...)
		copy(whole[skip:], data[:n])
		d.cached = append(d.cached, block{at, whole})
		d.newest[at] = whole
		to, data = to+n, data[n:]
	}
}
