// Package abi holds numbers of Linux's kernel interface for packages that must
// not touch the kernel: the compiler of container programs names flags by these,
// and only the executor hands them to a system call. Values are those of the
// kernel's uapi headers, equal on amd64 and arm64. It is pure: no imports.
package abi

// AtFDCWD as a directory descriptor means the working directory.
const AtFDCWD = -100

// Flags of openat2(2): how.flags and how.resolve.
const (
	ORdOnly             = 0x0
	OWrOnly             = 0x1
	ORdWr               = 0x2
	OCreat              = 0x40
	OExcl               = 0x80
	ONoCTTY             = 0x100
	ONonBlock           = 0x800
	OCloexec            = 0x80000
	OPath               = 0x200000
	ResolveNoXDev       = 0x01
	ResolveNoMagiclinks = 0x02
	ResolveNoSymlinks   = 0x04
	ResolveBeneath      = 0x08
	ResolveInRoot       = 0x10
)

// fcntl(F_SETFD, FD_CLOEXEC).
const (
	FSetFD    = 2
	FDCloexec = 1
)

// Flags of the *at calls.
const (
	AtSymlinkNofollow = 0x100
	AtEmptyPath       = 0x1000
	AtRecursive       = 0x8000
)

// Flags of open_tree(2), move_mount(2), fsopen(2) and fsmount(2).
const (
	OpenTreeClone   = 0x1
	OpenTreeCloexec = OCloexec

	MoveMountFEmptyPath = 0x4
	MoveMountTEmptyPath = 0x40

	FsopenCloexec  = 0x1
	FsmountCloexec = 0x1
)

// Commands of fsconfig(2).
const (
	FsconfigSetFlag   = 0
	FsconfigSetString = 1
	FsconfigCreate    = 6
)

// Attributes of mount_setattr(2) and fsmount(2).
const (
	MountAttrRdonly      = 0x1
	MountAttrNosuid      = 0x2
	MountAttrNodev       = 0x4
	MountAttrNoexec      = 0x8
	MountAttrAtime       = 0x70 // mask of the next three
	MountAttrRelatime    = 0x0
	MountAttrNoatime     = 0x10
	MountAttrStrictatime = 0x20
	MountAttrNodiratime  = 0x80
	MountAttrIdmap       = 0x100000
	MountAttrNosymfollow = 0x200000
)

// Propagation types, as mount_setattr(2) takes them.
const (
	MSUnbindable = 1 << 17
	MSPrivate    = 1 << 18
	MSSlave      = 1 << 19
	MSShared     = 1 << 20
)

// MntDetach is a flag of umount2(2).
const MntDetach = 0x2

// File types and their mask in a mode.
const (
	SIFMT  = 0xf000
	SIFIFO = 0x1000
	SIFCHR = 0x2000
	SIFDIR = 0x4000
	SIFBLK = 0x6000
	SIFREG = 0x8000
	SISVTX = 0o1000
)

// Magic numbers of file systems, as statfs(2) tells them.
const (
	ProcMagic   = 0x9fa0
	DevptsMagic = 0x1cd1
)

// Mkdev packs a device number as mknod(2) takes it.
func Mkdev(major, minor uint32) uint64 {
	return uint64(minor&0xff) | uint64(major&0xfff)<<8 | uint64(minor&^0xff)<<12 | uint64(major&^0xfff)<<32
}

// Major is the major number of a device number of Mkdev.
func Major(dev uint64) uint32 { return uint32(dev>>8)&0xfff | uint32(dev>>32)&^0xfff }

// Minor is the minor number of a device number of Mkdev.
func Minor(dev uint64) uint32 { return uint32(dev)&0xff | uint32(dev>>12)&^0xff }
