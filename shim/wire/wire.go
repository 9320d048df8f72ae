// Package wire is how a monitor speaks: ttrpc (containerd's small rpc protocol,
// ttrpc/PROTOCOL.md) with unary calls, and the protocol buffers encoding for
// plain structs (internal/pb).
//
// Why not the libraries: a node runs a monitor per pod or per few pods, so its
// private memory and its start-up time are paid again and again. Linking ttrpc,
// protobuf and containerd's generated types costs each monitor 1.2 MB of private
// memory before its first call; this package costs some kilobytes. The daemon's
// side (shim/client) uses the libraries, so every rpc between the two proves that
// both agree, and the tests compare the encoding with protobuf's own.
//
// A message is a struct with internal/pb's tags. Streams do not exist here.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/strake-containers/strake/internal/pb"
)

const (
	headerSize = 10
	// maxMessage is ttrpc's limit of a message's length; a peer that exceeds it
	// is cut off.
	maxMessage = 4 << 20

	kindRequest  = 1
	kindResponse = 2
)

// Any is google.protobuf.Any.
type Any struct {
	TypeURL string `pb:"1"`
	Value   []byte `pb:"2"`
}

// Empty is google.protobuf.Empty.
type Empty struct{}

type request struct {
	Service     string      `pb:"1"`
	Method      string      `pb:"2"`
	Payload     []byte      `pb:"3"`
	TimeoutNano int64       `pb:"4"`
	Metadata    []*keyValue `pb:"5"`
}

type keyValue struct {
	Key   string `pb:"1"`
	Value string `pb:"2"`
}

type response struct {
	Status  *status `pb:"1"`
	Payload []byte  `pb:"2"`
}

type status struct {
	Code    int32  `pb:"1"`
	Message string `pb:"2"`
}

// Code is the class of an error, as gRPC numbers them.
type Code int32

// The codes that a monitor uses.
const (
	Canceled           Code = 1
	Unknown            Code = 2
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	FailedPrecondition Code = 9
	Unimplemented      Code = 12
	Unavailable        Code = 14
)

// Error is an error with a code, which is what the peer can rely on.
type Error struct {
	Code    Code
	Message string
	Cause   error // may be nil
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error; as in fmt.Errorf, %w keeps the cause.
func Errorf(code Code, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Cause: errors.Unwrap(err)}
}

type header struct {
	length, stream uint32
	kind, flags    byte
}

func readFrame(r *bufio.Reader) (header, []byte, error) {
	var raw [headerSize]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return header{}, nil, err
	}
	h := header{
		length: binary.BigEndian.Uint32(raw[0:4]),
		stream: binary.BigEndian.Uint32(raw[4:8]),
		kind:   raw[8],
		flags:  raw[9],
	}
	if h.length > maxMessage {
		return h, nil, fmt.Errorf("ttrpc: message of %d bytes: the limit is %d", h.length, maxMessage)
	}
	payload := make([]byte, h.length)
	_, err := io.ReadFull(r, payload)
	return h, payload, err
}

// frame encodes a message with its header in one piece, for one write.
func frame(stream uint32, kind byte, message any) ([]byte, error) {
	payload, err := pb.Marshal(message)
	if err != nil {
		return nil, err
	}
	if len(payload) > maxMessage {
		return nil, fmt.Errorf("ttrpc: message of %d bytes: the limit is %d", len(payload), maxMessage)
	}
	b := make([]byte, headerSize, headerSize+len(payload))
	binary.BigEndian.PutUint32(b[0:4], uint32(len(payload)))
	binary.BigEndian.PutUint32(b[4:8], stream)
	b[8] = kind
	return append(b, payload...), nil
}
