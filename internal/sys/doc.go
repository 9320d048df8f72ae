// Package sys wraps the system calls that the standard library lacks, one file
// for each area of the kernel. It is the only package but oci/launch that
// imports golang.org/x/sys/unix.
//
// A wrapper turns a call into Go's terms (files, errors that name the call) and
// decides nothing. It never leaves a thread of the Go scheduler in a changed
// namespace, and every descriptor that it makes is close-on-exec.
package sys
