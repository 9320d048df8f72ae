package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// PinsVariable is the environment variable that tells straked's monitor where the
// pins are (sys.MakePins).
const PinsVariable = "STRAKE_PINS"

// KeepSocket is the name of the socket, beside a monitor's own, over which it and
// straked keep descriptors for each other: those that cannot be opened again by a
// path, such as a terminal's master. A frame is one byte of kind, one of length and
// a name; its descriptor comes with the first byte.
//
// Who connects sends what it has kept of an earlier monitor, then KeepEnd, which
// is answered by KeepEnd. From then on the monitor sends what is to be kept, at
// once and as it comes, and what need not be any more.
const KeepSocket = "keep.sock"

// The kinds of frames.
const (
	KeepFile = 'K' // with a descriptor
	KeepDrop = 'D'
	KeepEnd  = 'E'
)

// maxKeepName is the length of a name: two ids and what is between.
const maxKeepName = 255

// SendKept sends a frame, with f if that is not nil. The caller keeps f.
func SendKept(c *net.UnixConn, kind byte, name string, f *os.File) error {
	if len(name) > maxKeepName {
		return fmt.Errorf("keep %q: the name is longer than %d", name, maxKeepName)
	}
	frame := append([]byte{kind, byte(len(name))}, name...)
	if f == nil {
		_, err := c.Write(frame)
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = c.WriteMsgUnix(frame, syscall.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sendErr)
}

// ReceiveKept reads a frame. The caller closes f, which is nil for most kinds.
func ReceiveKept(c *net.UnixConn) (kind byte, name string, f *os.File, err error) {
	var head [2]byte
	oob := make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(head[:1], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, "", nil, err
	}
	if f, err = fileOf(oob[:oobn]); err == nil {
		_, err = io.ReadFull(c, head[1:])
	}
	text := make([]byte, head[1])
	if err == nil {
		_, err = io.ReadFull(c, text)
	}
	if err == nil && (head[0] == KeepFile) != (f != nil) {
		err = fmt.Errorf("keep: frame %q of %q: a descriptor is missing or too many", head[0], text)
	}
	if err != nil && f != nil {
		_ = f.Close() // of no use
		f = nil
	}
	return head[0], string(text), f, err
}

// fileOf returns the descriptor that came with a message, or nil.
func fileOf(oob []byte) (*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "kept"), nil
}
