package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
)

// StillFS is a FUSE file system, at Dir, whose server stands still: it shows an
// empty directory, takes whatever it is asked about a name in it, and never
// answers. Who asks waits uninterruptibly: no signal ends a wait for a request
// that the server has read (fuse(4); fs/fuse/dev.c, request_wait_answer).
type StillFS struct {
	Dir string
	// Asked is closed when somebody waits.
	Asked <-chan struct{}

	tb   testing.TB
	free sync.Once
}

// The parts of include/uapi/linux/fuse.h that it takes.
const (
	fuseGetattr = 3
	fuseInit    = 26
	fuseRootID  = 1

	fuseInHeader  = 40 // struct fuse_in_header
	fuseOutHeader = 16 // struct fuse_out_header
	fuseInitOut   = 64 // struct fuse_init_out of 7.23 and later
	fuseAttrOut   = 104
	fuseMaxWrite  = 4096
)

// NewStillFS mounts one, which the end of the test sets free and unmounts.
func NewStillFS(tb testing.TB) *StillFS {
	tb.Helper()
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		tb.Skipf("needs FUSE: %v", err)
	}
	server := os.NewFile(uintptr(fd), "/dev/fuse")
	dir, err := os.MkdirTemp("/run", "strake-still-")
	if err != nil {
		tb.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	if err := syscall.Mount("still", dir, "fuse", 0, options); err != nil {
		tb.Fatal(err)
	}
	asked := make(chan struct{})
	f := &StillFS{Dir: dir, Asked: asked, tb: tb}
	tb.Cleanup(func() {
		f.Free()
		if err := os.Remove(dir); err != nil {
			tb.Error(err)
		}
	})
	go serveStill(server, asked)
	return f
}

// Free lets everybody who waits, or will ask, have an error: by force, unmounting
// ends the server's connection.
func (f *StillFS) Free() {
	f.free.Do(func() {
		if err := syscall.Unmount(f.Dir, syscall.MNT_FORCE|syscall.MNT_DETACH); err != nil {
			f.tb.Error(err)
		}
	})
}

// serveStill answers what a mount and a look at its root need, until the file
// system is free.
func serveStill(server *os.File, asked chan<- struct{}) {
	defer func() { _ = server.Close() }() // its connection has ended
	var once sync.Once
	request := make([]byte, fuseInHeader+fuseMaxWrite+4096)
	for {
		n, err := server.Read(request)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINTR) { // its caller has gone before we had it
			continue
		}
		if err != nil || n < fuseInHeader {
			return // freed
		}
		opcode, unique, node := binary.NativeEndian.Uint32(request[4:]), binary.NativeEndian.Uint64(request[8:]), binary.NativeEndian.Uint64(request[16:])
		var answer []byte
		switch {
		case opcode == fuseInit:
			answer = make([]byte, fuseInitOut)
			binary.NativeEndian.PutUint32(answer[0:], 7)
			binary.NativeEndian.PutUint32(answer[4:], 31)
			binary.NativeEndian.PutUint32(answer[20:], fuseMaxWrite)
		case opcode == fuseGetattr && node == fuseRootID:
			answer = make([]byte, fuseAttrOut)
			binary.NativeEndian.PutUint64(answer[0:], 3600)                      // attr_valid, in seconds
			binary.NativeEndian.PutUint64(answer[16:], fuseRootID)               // attr.ino
			binary.NativeEndian.PutUint32(answer[16+60:], syscall.S_IFDIR|0o755) // attr.mode
			binary.NativeEndian.PutUint32(answer[16+64:], 2)                     // attr.nlink
		default:
			once.Do(func() { close(asked) })
			continue
		}
		header := make([]byte, fuseOutHeader, fuseOutHeader+len(answer))
		binary.NativeEndian.PutUint32(header[0:], uint32(fuseOutHeader+len(answer)))
		binary.NativeEndian.PutUint64(header[8:], unique)
		if _, err := server.Write(append(header, answer...)); err != nil {
			return
		}
	}
}
