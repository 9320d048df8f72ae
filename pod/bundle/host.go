package bundle

// Host is what of the host a spec depends on.
type Host struct {
	AppArmor, SELinux bool // enabled in the kernel
}
