package wire

import (
	"bytes"
	"encoding/binary"
)

// Forbidden is the file, in a container's bundle, where its monitor counts the system
// calls that its seccomp profile forbade: those of a container that was created with
// CreateOptions.count_forbidden. The monitor has it mapped, and anybody may read it at any
// time; docs/format/pods.md.
const Forbidden = "forbidden"

// ForbiddenSize is that of the file.
const ForbiddenSize = 16 << 10

// ForbiddenCalls is where in it the counts begin: before them is room for the monitor.
const ForbiddenCalls = 512

// A count is a name, padded with zeros, and how often that was called. The first without
// a name ends them.
const (
	forbiddenName  = 32
	forbiddenCount = forbiddenName + 8
	forbiddenLast  = ForbiddenSize - forbiddenCount // where the last one may be
)

// forbiddenOthers is what the last count is of, where there are more names than room.
const forbiddenOthers = "others"

// ForbiddenAt finds the count of a call, or makes one: where it is in the file.
func ForbiddenAt(file []byte, name string) int {
	at := ForbiddenCalls
	for ; at+forbiddenCount <= forbiddenLast; at += forbiddenCount {
		if has := forbiddenNameAt(file, at); has == name {
			return at
		} else if has == "" {
			copy(file[at:at+forbiddenName-1], name)
			return at
		}
	}
	copy(file[at:], forbiddenOthers)
	return at
}

// ForbiddenTimes is how often the call was made whose count is there.
func ForbiddenTimes(file []byte, at int) uint64 {
	return binary.NativeEndian.Uint64(file[at+forbiddenName:])
}

// SetForbiddenTimes sets it.
func SetForbiddenTimes(file []byte, at int, n uint64) {
	binary.NativeEndian.PutUint64(file[at+forbiddenName:], n)
}

// ForbiddenOf is what a file counts, by the calls' names. It need not be one of ours.
func ForbiddenOf(file []byte) map[string]uint64 {
	calls := map[string]uint64{}
	for at := ForbiddenCalls; at+forbiddenCount <= len(file); at += forbiddenCount {
		name := forbiddenNameAt(file, at)
		if name == "" {
			break
		}
		if n := ForbiddenTimes(file, at); n > 0 {
			calls[name] = n
		}
	}
	return calls
}

func forbiddenNameAt(file []byte, at int) string {
	name, _, _ := bytes.Cut(file[at:at+forbiddenName], []byte{0})
	return string(name)
}
