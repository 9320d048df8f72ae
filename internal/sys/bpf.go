package sys

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The attributes of bpf(2) for the few commands that cgroup device filters
// need, cut short as the kernel allows. Pointers are real ones, so that what they
// point to is on the heap and stays; that wants a 64-bit machine.
type (
	bpfProgLoad struct {
		progType, count       uint32
		insns, license        unsafe.Pointer
		logLevel, logSize     uint32
		logBuf                uint64
		kernVersion, progFlag uint32
		name                  [unix.BPF_OBJ_NAME_LEN]byte
	}
	bpfProgAttach struct {
		target, prog, attachType, flags, replace uint32
		relative                                 uint32
		revision                                 uint64
	}
	bpfProgQuery struct {
		target, attachType, queryFlags, attachFlags uint32
		ids                                         unsafe.Pointer
		count, _                                    uint32
		progAttachFlags                             uint64
	}
	bpfGetFD struct{ id, next, openFlags uint32 }
)

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		switch {
		case errno == 0:
			return int(r), nil
		case errno == unix.EINTR, errno == unix.EAGAIN && cmd == unix.BPF_PROG_LOAD: // the verifier was interrupted
		default:
			return -1, errno
		}
	}
}

// LoadCgroupDeviceProgram loads an eBPF program of type cgroup_device, given in
// its wire form. The caller closes the descriptor; an attached program lives on.
func LoadCgroupDeviceProgram(code []byte) (int, error) {
	if len(code) == 0 || len(code)%8 != 0 {
		return -1, fmt.Errorf("bpf program of %d bytes: not whole instructions", len(code))
	}
	license := []byte("GPL\x00") // attaching to cgroups needs no GPL helper; the kernel wants one said
	attr := bpfProgLoad{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE,
		count:    uint32(len(code) / 8),
		insns:    unsafe.Pointer(&code[0]),
		license:  unsafe.Pointer(&license[0]),
		name:     [unix.BPF_OBJ_NAME_LEN]byte{'s', 't', 'r', 'a', 'k', 'e', '_', 'd', 'e', 'v'},
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == nil {
		return fd, nil
	}
	return -1, fmt.Errorf("bpf(BPF_PROG_LOAD): %w", err)
}

// AttachCgroupDevice attaches a program to a cgroup v2 directory, beside those
// that are there.
func AttachCgroupDevice(cgroup, prog int) error {
	attr := bpfProgAttach{
		target: uint32(cgroup), prog: uint32(prog),
		attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI,
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("bpf(BPF_PROG_ATTACH): %w", err)
	}
	return nil
}

// CgroupDevicePrograms lists the ids of the device programs attached to the
// directory itself.
func CgroupDevicePrograms(cgroup int) ([]uint32, error) {
	var ids [64]uint32 // the kernel's own bound on programs per cgroup
	attr := bpfProgQuery{
		target: uint32(cgroup), attachType: unix.BPF_CGROUP_DEVICE,
		ids: unsafe.Pointer(&ids[0]), count: uint32(len(ids)),
	}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return nil, fmt.Errorf("bpf(BPF_PROG_QUERY): %w", err)
	}
	return append([]uint32(nil), ids[:min(int(attr.count), len(ids))]...), nil
}

// DetachCgroupDevice detaches one program by its id. One that is gone is fine.
func DetachCgroupDevice(cgroup int, id uint32) error {
	get := bpfGetFD{id: id}
	prog, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bpf(BPF_PROG_GET_FD_BY_ID): %w", err)
	}
	defer func() { _ = unix.Close(prog) }()
	attr := bpfProgAttach{target: uint32(cgroup), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE}
	if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("bpf(BPF_PROG_DETACH): %w", err)
	}
	return nil
}
