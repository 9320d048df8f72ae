package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// openFIFO opens a FIFO for this process, without waiting for the other end.
func openFIFO(path string, flags int) (*os.File, error) {
	fd, err := openRaw(path, flags|syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openChildFIFO opens a FIFO for a container's process, without waiting for the
// other end. The process gets it in blocking mode: programs expect that.
func openChildFIFO(path string, flags int) (*os.File, error) {
	fd, err := openRaw(path, flags|syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		_ = syscall.Close(fd) // unused
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openRaw(path string, flags int) (int, error) {
	for {
		fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return -1, fmt.Errorf("open %s: %w", path, err)
		}
		var st syscall.Stat_t
		if err = syscall.Fstat(fd, &st); err == nil && st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
			err = errors.New("it is not a FIFO")
		}
		if err != nil {
			_ = syscall.Close(fd) // unused
			return -1, fmt.Errorf("open %s: %w", path, err)
		}
		return fd, nil
	}
}

// openOutputFIFO opens a FIFO that the caller reads, once the caller has opened
// it: what is written earlier would be lost if the writer were quicker. The file
// is a reader too, so that the process outlives the caller; ours is for the
// terminal's copier, which has to notice when nobody reads and so is not.
func openOutputFIFO(ctx context.Context, path string, ours bool) (*os.File, error) {
	w, err := openFIFO(path, syscall.O_WRONLY)
	if errors.Is(err, syscall.ENXIO) { // no reader yet
		w, err = awaitReader(ctx, path)
	}
	if err != nil || ours {
		return w, err
	}
	defer func() { _ = w.Close() }() // nothing was written
	return openChildFIFO(path, syscall.O_RDWR)
}

// awaitReader opens a FIFO for writing, which returns when it has a reader. The
// wait costs a thread; it is for callers that open their end late.
func awaitReader(ctx context.Context, path string) (*os.File, error) {
	type result struct {
		fd  int
		err error
	}
	opened := make(chan result, 1)
	go func() {
		fd, err := openRaw(path, syscall.O_WRONLY)
		opened <- result{fd, err}
	}()
	var r result
	select {
	case r = <-opened:
	case <-ctx.Done():
		// Being a reader ourselves for a moment ends the wait.
		fd, err := openRaw(path, syscall.O_RDONLY|syscall.O_NONBLOCK)
		if err != nil {
			return nil, fmt.Errorf("nobody reads %s: %w", path, errors.Join(ctx.Err(), err))
		}
		if r = <-opened; r.err == nil {
			_ = syscall.Close(r.fd) // unused
		}
		_ = syscall.Close(fd) // nothing was read
		return nil, fmt.Errorf("nobody reads %s: %w", path, ctx.Err())
	}
	if r.err != nil {
		return nil, r.err
	}
	if err := syscall.SetNonblock(r.fd, true); err != nil {
		_ = syscall.Close(r.fd) // unused
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(r.fd), path), nil
}

// awaitTaken waits until what was written to a caller's FIFO has been read, nobody is
// left to do that, or ctx ends. That the caller has it open is all that openOutputFIFO
// knows: on a busy machine its open may return later than a short process's exit, and
// containerd takes a FIFO that it has not opened by the exit for one that never will be.
func awaitTaken(ctx context.Context, path string) {
	w, err := openFIFO(path, syscall.O_WRONLY)
	if err != nil {
		return // nobody reads it, or it is gone
	}
	defer func() { _ = w.Close() }() // nothing was written
	if !sys.Unread(sys.Fd(w)) {
		return
	}
	watch, err := sys.NewInotify()
	if err != nil {
		return // a user can have 128: this one's reader has to be quick
	}
	defer func() { _ = watch.Close() }() // ends nothing
	defer context.AfterFunc(ctx, func() { _ = watch.Close() })()
	if watch.Add(path, sys.InAccess|sys.InClose) != nil {
		return // it is gone
	}
	for sys.Unread(sys.Fd(w)) && watch.Wait() == nil {
	}
}

// pipe makes a pipe that this process reads.
func pipe() (r, w *os.File, err error) {
	r, w, err = os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	if err := sys.SetBlocking(w); err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	return r, w, nil
}

// reversedPipe makes a pipe that this process writes.
func reversedPipe() (w, r *os.File, err error) {
	r, w, err = os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	if err := sys.SetBlocking(r); err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	return w, r, nil
}
