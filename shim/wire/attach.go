package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// AttachSocket is the name of a container's attach socket, in its bundle.
const AttachSocket = "attach.sock"

// The frames of an attach connection: one byte of type, four of length (big
// endian), the payload.
const (
	AttachStdin  = 0 // client → monitor; an empty one closes the container's stdin
	AttachStdout = 1 // monitor → client, as are 2 and 4; an empty one first: attached
	AttachStderr = 2
	AttachResize = 3 // client → monitor: width, height, two bytes each
	AttachEnd    = 4 // there will be no more output

	// MaxAttach is the greatest length of a payload.
	MaxAttach = 64 << 10

	attachHeader = 5
)

// AppendAttach appends a frame to b.
func AppendAttach(b []byte, kind byte, payload []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// ReadAttach reads a frame. The payload is the caller's.
func ReadAttach(r io.Reader) (kind byte, payload []byte, err error) {
	var head [attachHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxAttach {
		return 0, nil, fmt.Errorf("attach: frame of %d bytes: the limit is %d", n, MaxAttach)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}
